//! A semaphore that is fair between callers.
//!
//! Each class of callers has permits of its own. Inside a class a caller may hold as many as are still free (a dynamic threshold), so that
//! one caller alone gets half of them and there is always one left for the next. Waiting callers take turns by stride scheduling: those
//! who had least so far come first, and cheap work overtakes dear work within bounds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::caller::{Caller, Class, Share};
use super::work::Work;
use crate::sync::lock;

/// How many later arrivals can overtake work, however dear it is.
const MAX_OVERTAKEN: u64 = 32;

/// How many permits there are, and who may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FairLimits {
    /// Permits of each class, in the order of [`Class::ALL`].
    pub(crate) permits: [usize; 3],
    /// Most permits of one caller.
    pub(crate) per_caller: usize,
    /// Permits of each class for one destination.
    pub(crate) per_destination: [usize; 3],
    /// Callers of one class that may wait. With 0 nobody waits.
    pub(crate) queue: usize,
    /// The same of one caller.
    pub(crate) queue_per_caller: usize,
    /// The longest wait.
    pub(crate) longest_wait: Duration,
    /// Whose turn it is among equals.
    pub(crate) order: Order,
}

/// Whose turn it is among works of the same caller and cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// First come, first served.
    OldestFirst,
    /// The newest: where callers cannot be told apart, a flood then delays itself and not who comes next.
    NewestFirst,
}

/// What a permit is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ask {
    /// How many later arrivals may overtake it at least: 0 for cheap work.
    pub(crate) cost: u64,
    /// Whom the work burdens.
    pub(crate) destination: Option<Share>,
}

/// Why there is no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The queue is full.
    Full,
    /// The wait was too long.
    Late,
}

/// What happened so far in one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Permits there are.
    pub(crate) places: usize,
    /// Permits in use.
    pub(crate) running: usize,
    /// Callers in the queue.
    pub(crate) waiting: usize,
    /// Permits given so far.
    pub(crate) granted: u64,
    /// Time that those waited, all together.
    pub(crate) waited: Duration,
    /// Refused because the queue was full.
    pub(crate) refused_full: u64,
    /// Refused after the longest wait.
    pub(crate) refused_late: u64,
}

/// The semaphore.
#[derive(Debug)]
pub(crate) struct FairSemaphore {
    limits: FairLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the next caller in the queue.
    next: u64,
    waiting: Vec<Waiting>,
    holders: HashMap<Class, Holders>,
    /// Permits by destination.
    destinations: HashMap<(Class, Share), Holders>,
    turns: HashMap<Class, Turns>,
    counts: HashMap<Class, Counts>,
}

/// A caller in the queue.
#[derive(Debug)]
struct Waiting {
    number: u64,
    work: Work,
    ask: Ask,
    since: Instant,
    permit: oneshot::Sender<FairPermit>,
}

/// Who holds how many permits.
#[derive(Debug, Default)]
struct Holders {
    total: usize,
    by_caller: HashMap<Share, usize>,
}

/// How much each caller had: its pass in stride scheduling.
#[derive(Debug, Default)]
struct Turns {
    /// The pass of the last turn. Who comes anew begins here.
    now: u64,
    by_caller: HashMap<Share, u64>,
}

/// A permit, until it is dropped.
#[derive(Debug)]
pub(crate) struct FairPermit {
    semaphore: Arc<FairSemaphore>,
    caller: Caller,
    destination: Option<Share>,
}

/// Takes a caller that stops waiting out of the queue.
struct InQueue<'a> {
    semaphore: &'a FairSemaphore,
    number: u64,
}

/// A permit with the caller that waits for it.
type Grant = (oneshot::Sender<FairPermit>, FairPermit);

impl FairSemaphore {
    pub(crate) fn new(limits: FairLimits) -> Arc<Self> {
        Arc::new(Self { limits, state: Mutex::default() })
    }

    /// Waits for a permit. The work's standing counts at every moment of the wait: it may rise.
    ///
    /// # Errors
    /// `Full` at once, or when others that wait have a better claim to the place in the queue; `Late` after the longest wait.
    pub(crate) async fn acquire(self: &Arc<Self>, work: &Work, ask: Ask) -> Result<FairPermit, Refusal> {
        let mut changes = work.changes();
        let (sender, mut permit) = oneshot::channel();
        let Some(number) = self.enqueue(work, ask, sender) else {
            self.count_refusal(work.caller().class);
            return Err(Refusal::Full);
        };
        let _in_queue = InQueue { semaphore: self, number };
        let wait = async {
            loop {
                tokio::select! {
                    biased;
                    permit = &mut permit => return permit.map_err(|_evicted| Refusal::Full),
                    // The standing may have risen. An error is impossible: the work lives as long as this.
                    _ = changes.changed() => self.dispatch(),
                }
            }
        };
        // A permit that is free at once needs no timer.
        let granted = tokio::select! {
            biased;
            granted = wait => granted,
            () = tokio::time::sleep(self.limits.longest_wait) => Err(Refusal::Late),
        };
        granted.inspect_err(|refusal| match refusal {
            Refusal::Full => self.count_refusal(work.caller().class),
            Refusal::Late => {
                self.count(work.caller().class, |counts| {
                    counts.refused_late = counts.refused_late.saturating_add(1);
                });
            }
        })
    }

    /// A permit, if there is one for this caller right now.
    pub(crate) fn try_acquire(self: &Arc<Self>, caller: Caller, ask: Ask) -> Option<FairPermit> {
        let mut state = lock(&self.state);
        state.admits(&self.limits, caller, ask.destination).then(|| self.grant(&mut state, caller, ask))
    }

    /// Whether other callers of this class wait for a permit.
    pub(crate) fn is_contended(&self, class: Class) -> bool {
        lock(&self.state).waiting.iter().any(|waiting| waiting.work.caller().class == class)
    }

    /// What happened so far in a class.
    pub(crate) fn counts(&self, class: Class) -> Counts {
        let state = lock(&self.state);
        let running = state.holders.get(&class).map_or(0, |holders| holders.total);
        let waiting = state.waiting_of(class).count();
        let places = of_class(&self.limits.permits, class);
        Counts { places, running, waiting, ..state.counts.get(&class).copied().unwrap_or_default() }
    }

    /// Enters the queue, from which a permit that is free is taken at once. Returns the place in the queue; `None` when it is full.
    fn enqueue(self: &Arc<Self>, work: &Work, ask: Ask, permit: oneshot::Sender<FairPermit>) -> Option<u64> {
        let caller = work.caller();
        // Nobody waits for what never comes: the class is shut out.
        if of_class(&self.limits.permits, caller.class) == 0 {
            return None;
        }
        let mut state = lock(&self.state);
        let number = state.next;
        state.next = number.wrapping_add(1);
        let evicted;
        let grants;
        if state.waiting.is_empty() && state.admits(&self.limits, caller, ask.destination) {
            evicted = None;
            grants = vec![(permit, self.grant(&mut state, caller, ask))];
        } else {
            let waiting = Waiting { number, work: work.clone(), ask, since: Instant::now(), permit };
            state.waiting.push(waiting);
            grants = self.grant_all(&mut state);
            evicted = state.evict(&self.limits, caller);
        }
        drop(state);
        send(grants);
        // Dropped outside the lock: that wakes its task.
        match evicted {
            Some(Waiting { number: evicted, .. }) if evicted == number => None,
            _ => Some(number),
        }
    }

    /// Gives free permits to callers that wait.
    fn dispatch(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        if state.waiting.is_empty() {
            return;
        }
        let grants = self.grant_all(&mut state);
        drop(state);
        send(grants);
    }

    /// Permits for all callers whose turn it is.
    fn grant_all(self: &Arc<Self>, state: &mut State) -> Vec<Grant> {
        let mut grants = Vec::new();
        while let Some(Waiting { work, ask, since, permit, .. }) = state.take_next(&self.limits) {
            let caller = work.caller();
            let counts = state.counts.entry(caller.class).or_default();
            counts.waited = counts.waited.saturating_add(since.elapsed());
            grants.push((permit, self.grant(state, caller, ask)));
        }
        grants
    }

    /// Counts a permit.
    fn grant(
        self: &Arc<Self>,
        state: &mut State,
        caller: Caller,
        Ask { cost, destination }: Ask,
    ) -> FairPermit {
        let Caller { class, share } = caller;
        state.holders.entry(class).or_default().add(share);
        if let Some(destination) = destination {
            state.destinations.entry((class, destination)).or_default().add(share);
        }
        state.turns.entry(class).or_default().take(share, cost);
        let counts = state.counts.entry(class).or_default();
        counts.granted = counts.granted.saturating_add(1);
        FairPermit { semaphore: Arc::clone(self), caller, destination }
    }

    /// Counts a caller for whom there was no place.
    pub(crate) fn count_refusal(&self, class: Class) {
        self.count(class, |counts| counts.refused_full = counts.refused_full.saturating_add(1));
    }

    fn count(&self, class: Class, change: impl FnOnce(&mut Counts)) {
        change(lock(&self.state).counts.entry(class).or_default());
    }
}

impl State {
    /// Whether a caller may have a further permit.
    fn admits(&self, limits: &FairLimits, caller: Caller, destination: Option<Share>) -> bool {
        let Caller { class, share } = caller;
        let none = Holders::default();
        let holders = self.holders.get(&class).unwrap_or(&none);
        let of_caller = holders.of(share) < limits.per_caller;
        let of_destination = destination.is_none_or(|destination| {
            let holders = self.destinations.get(&(class, destination)).unwrap_or(&none);
            holders.admits(share, of_class(&limits.per_destination, class))
        });
        of_caller && of_destination && holders.admits(share, of_class(&limits.permits, class))
    }

    /// Takes the caller whose turn it is out of the queue, if there is a permit for it.
    fn take_next(&mut self, limits: &FairLimits) -> Option<Waiting> {
        let turn = |(index, waiting): (usize, &Waiting)| {
            let caller = waiting.work.caller();
            if waiting.permit.is_closed() || !self.admits(limits, caller, waiting.ask.destination) {
                return None;
            }
            let pass = self.turns.get(&caller.class).map_or(0, |turns| turns.pass(caller.share));
            let behind = waiting.ask.cost.min(MAX_OVERTAKEN);
            let place = match limits.order {
                Order::OldestFirst => waiting.number.saturating_add(behind),
                Order::NewestFirst => u64::MAX.saturating_sub(waiting.number).saturating_add(behind),
            };
            Some(((caller.class, pass, place), index))
        };
        let (_, index) = self.waiting.iter().enumerate().filter_map(turn).min()?;
        Some(self.waiting.remove(index))
    }

    /// Takes one out of a queue that became too long by a caller that has just entered it: of the caller that has most places, the newest,
    /// or the oldest where the newest comes first.
    fn evict(&mut self, limits: &FairLimits, entered: Caller) -> Option<Waiting> {
        let mut by_caller: HashMap<Share, usize> = HashMap::new();
        for caller in self.waiting_of(entered.class) {
            let count = by_caller.entry(caller.share).or_default();
            *count = count.saturating_add(1);
        }
        let own = by_caller.get(&entered.share).copied().unwrap_or(0);
        let share = if own > limits.queue_per_caller {
            entered.share
        } else if by_caller.values().sum::<usize>() > limits.queue {
            // Among equals the newcomer goes.
            let most = by_caller.iter().max_by_key(|(share, count)| (**count, **share == entered.share));
            most.map(|(share, _)| *share)?
        } else {
            return None;
        };
        let of_share = |waiting: &Waiting| waiting.work.caller() == Caller { class: entered.class, share };
        let index = match limits.order {
            Order::OldestFirst => self.waiting.iter().rposition(of_share),
            Order::NewestFirst => self.waiting.iter().position(of_share),
        };
        index.map(|index| self.waiting.remove(index))
    }

    /// The callers of a class that wait.
    fn waiting_of(&self, class: Class) -> impl Iterator<Item = Caller> {
        self.waiting.iter().map(|waiting| waiting.work.caller()).filter(move |caller| caller.class == class)
    }

    /// Counts a permit that came back.
    fn give_back(&mut self, Caller { class, share }: Caller, destination: Option<Share>) {
        if let Some(holders) = self.holders.get_mut(&class) {
            holders.remove(share);
        }
        if let Some(key) = destination.map(|destination| (class, destination))
            && let Some(holders) = self.destinations.get_mut(&key)
        {
            holders.remove(share);
            if holders.total == 0 {
                self.destinations.remove(&key);
            }
        }
        self.forget_idle(Caller { class, share });
    }

    /// Forgets the turns of a caller that has nothing and wants nothing.
    fn forget_idle(&mut self, Caller { class, share }: Caller) {
        let holds = self.holders.get(&class).is_some_and(|holders| holders.of(share) > 0);
        if !holds
            && !self.waiting_of(class).any(|waiting| waiting.share == share)
            && let Some(turns) = self.turns.get_mut(&class)
        {
            turns.by_caller.remove(&share);
        }
    }
}

impl Holders {
    fn of(&self, share: Share) -> usize {
        self.by_caller.get(&share).copied().unwrap_or(0)
    }

    /// Whether a caller may have a further one of `limit` permits: its first if any is free, else while it holds fewer than are free.
    fn admits(&self, share: Share, limit: usize) -> bool {
        let (own, free) = (self.of(share), limit.saturating_sub(self.total));
        free > 0 && own < free.max(1)
    }

    fn add(&mut self, share: Share) {
        self.total = self.total.saturating_add(1);
        let own = self.by_caller.entry(share).or_default();
        *own = own.saturating_add(1);
    }

    fn remove(&mut self, share: Share) {
        self.total = self.total.saturating_sub(1);
        match self.by_caller.get_mut(&share) {
            Some(own) if *own > 1 => *own = own.saturating_sub(1),
            _ => drop(self.by_caller.remove(&share)),
        }
    }
}

impl Turns {
    fn pass(&self, share: Share) -> u64 {
        self.by_caller.get(&share).map_or(self.now, |pass| (*pass).max(self.now))
    }

    /// A caller has its turn, which costs it a step.
    fn take(&mut self, share: Share, cost: u64) {
        let pass = self.pass(share);
        self.now = pass;
        self.by_caller.insert(share, pass.saturating_add(1).saturating_add(cost));
    }
}

/// The limit of a class.
fn of_class(limits: &[usize; 3], class: Class) -> usize {
    Class::ALL.into_iter().zip(limits).find(|(of, _)| *of == class).map_or(0, |(_, limit)| *limit)
}

/// Passes permits on. One whose caller has gone comes back when it is dropped here, outside the lock.
fn send(grants: Vec<Grant>) {
    for (caller, permit) in grants {
        drop(caller.send(permit));
    }
}

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.semaphore.state);
        let index = state.waiting.iter().position(|waiting| waiting.number == self.number);
        let left = index.map(|index| state.waiting.remove(index));
        if let Some(left) = &left {
            state.forget_idle(left.work.caller());
        }
        // Its channel is closed outside the lock.
        drop(state);
        drop(left);
    }
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        lock(&self.semaphore.state).give_back(self.caller, self.destination);
        self.semaphore.dispatch();
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::*;
    use crate::matrix::UserId;

    const LIMITS: FairLimits = FairLimits {
        permits: [4, 1, 1],
        per_caller: usize::MAX,
        per_destination: [usize::MAX; 3],
        queue: 6,
        queue_per_caller: 6,
        longest_wait: Duration::from_secs(10),
        order: Order::OldestFirst,
    };

    fn user(name: &str) -> Caller {
        Caller::user(&UserId::new(name))
    }

    fn stranger(number: u8) -> Caller {
        Caller::unknown(Some([198, 51, number, 1].into()))
    }

    type Acquired = JoinHandle<Result<FairPermit, Refusal>>;

    fn acquire_for(semaphore: &Arc<FairSemaphore>, work: Work, ask: Ask) -> Acquired {
        let semaphore = Arc::clone(semaphore);
        tokio::spawn(async move { semaphore.acquire(&work, ask).await })
    }

    fn acquire(semaphore: &Arc<FairSemaphore>, caller: Caller) -> Acquired {
        acquire_for(semaphore, Work::of(caller), Ask::default())
    }

    /// Lets all tasks run until they wait.
    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    /// The order in which the waiting get their permits, each dropped before the next.
    async fn order(
        semaphore: &Arc<FairSemaphore>,
        held: FairPermit,
        waiting: Vec<(char, Acquired)>,
    ) -> String {
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        for (name, acquired) in waiting {
            let sender = sender.clone();
            tokio::spawn(async move {
                let _permit = acquired.await.unwrap().unwrap();
                sender.send(name).unwrap();
            });
        }
        drop((sender, held));
        let mut order = String::new();
        while let Some(name) = receiver.recv().await {
            order.push(name);
        }
        assert_eq!(lock(&semaphore.state).waiting.len(), 0);
        order
    }

    #[tokio::test(start_paused = true)]
    async fn one_caller_gets_half_and_there_is_one_left_for_the_next() {
        let semaphore = FairSemaphore::new(LIMITS);
        let held: Vec<_> = (0..3).map(|_| acquire(&semaphore, user("alice"))).collect();
        settle().await;
        assert_eq!(held.iter().filter(|held| held.is_finished()).count(), 2);
        let (bob, carol) = (acquire(&semaphore, user("bob")), acquire(&semaphore, user("carol")));
        let (_bob, _carol) = (bob.await.unwrap().unwrap(), carol.await.unwrap().unwrap());
        assert_eq!(semaphore.counts(Class::User).running, 4);
        assert!(semaphore.try_acquire(user("dave"), Ask::default()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn no_class_waits_behind_another_and_who_is_promoted_leaves_the_queue() {
        let semaphore = FairSemaphore::new(LIMITS);
        let _stranger = acquire(&semaphore, stranger(1)).await.unwrap().unwrap();
        let (work, _waiter) = Work::shared(stranger(2), None);
        let waiting = acquire_for(&semaphore, work.clone(), Ask::default());
        settle().await;
        assert!(!waiting.is_finished());
        assert!(semaphore.is_contended(Class::Unknown) && !semaphore.is_contended(Class::User));
        drop(acquire(&semaphore, user("alice")).await.unwrap().unwrap());
        let _joined = work.join(user("bob"), None).unwrap();
        let permit = waiting.await.unwrap().unwrap();
        assert_eq!(permit.caller, user("bob"));
        assert_eq!(semaphore.counts(Class::User).granted, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_take_turns_and_cheap_work_overtakes_dear_work_within_bounds() {
        let semaphore =
            FairSemaphore::new(FairLimits { permits: [1; 3], queue: 99, queue_per_caller: 99, ..LIMITS });
        let held = acquire(&semaphore, user("other")).await.unwrap().unwrap();
        let waiting = [('a', "alice"), ('a', "alice"), ('a', "alice"), ('b', "bob"), ('b', "bob")];
        let mut queued = Vec::new();
        for (name, caller) in waiting {
            queued.push((name, acquire(&semaphore, user(caller))));
            settle().await;
        }
        assert_eq!(order(&semaphore, held, queued).await, "ababa");

        let held = acquire(&semaphore, user("other")).await.unwrap().unwrap();
        let mut queued = Vec::new();
        for (name, cost) in [('d', 1000), ('c', 0), ('C', 2), ('c', 0)].into_iter().chain([('z', 0); 40]) {
            let ask = Ask { cost, destination: None };
            queued.push((name, acquire_for(&semaphore, Work::of(user("alice")), ask)));
            settle().await;
        }
        let order = order(&semaphore, held, queued).await;
        assert!(order.starts_with("ccC"), "{order}");
        assert_eq!(
            order.find('d'),
            Some(31),
            "it is overtaken by the 32 that arrived after it, less one: {order}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_drops_the_newest_of_who_waits_most_and_the_wait_has_an_end() {
        let semaphore = FairSemaphore::new(LIMITS);
        let _held = acquire(&semaphore, stranger(1)).await.unwrap().unwrap();
        let flood: Vec<_> = (0..6).map(|_| acquire(&semaphore, stranger(1))).collect();
        settle().await;
        assert_eq!(acquire(&semaphore, stranger(1)).await.unwrap().unwrap_err(), Refusal::Full, "its own");
        let other = acquire(&semaphore, stranger(2));
        settle().await;
        assert!(!other.is_finished());
        assert_eq!(flood.iter().filter(|flood| flood.is_finished()).count(), 1);
        assert_eq!(other.await.unwrap().unwrap_err(), Refusal::Late);
        for flood in flood {
            flood.await.unwrap().unwrap_err();
        }
        let Counts { running, waiting, refused_full, refused_late, .. } = semaphore.counts(Class::Unknown);
        assert_eq!((running, waiting, refused_full, refused_late), (1, 0, 2, 6));
    }

    #[tokio::test(start_paused = true)]
    async fn where_the_newest_comes_first_a_flood_delays_itself() {
        let limits = FairLimits { order: Order::NewestFirst, queue: 3, queue_per_caller: 3, ..LIMITS };
        let semaphore = FairSemaphore::new(limits);
        let held = acquire(&semaphore, stranger(1)).await.unwrap().unwrap();
        let mut queued = Vec::new();
        for name in ['0', '1', '2', '3'] {
            queued.push((name, acquire(&semaphore, stranger(1))));
            settle().await;
        }
        assert_eq!(queued.remove(0).1.await.unwrap().unwrap_err(), Refusal::Full, "the oldest");
        assert_eq!(order(&semaphore, held, queued).await, "321");
    }

    #[tokio::test(start_paused = true)]
    async fn a_destination_has_limits_of_its_own_and_who_stops_waiting_takes_nothing() {
        let semaphore = FairSemaphore::new(FairLimits { per_destination: [2; 3], ..LIMITS });
        let to = |host| Ask { cost: 0, destination: Some(Share::of_host(host)) };
        let a = semaphore.try_acquire(user("alice"), to("a.example")).unwrap();
        assert!(semaphore.try_acquire(user("alice"), to("a.example")).is_none(), "one is left for others");
        let bob = semaphore.try_acquire(user("bob"), to("a.example")).unwrap();
        assert!(semaphore.try_acquire(user("carol"), to("a.example")).is_none());
        drop(semaphore.try_acquire(user("carol"), to("b.example")).unwrap());
        let gone = acquire_for(&semaphore, Work::of(user("carol")), to("a.example"));
        settle().await;
        gone.abort();
        drop((a, bob));
        settle().await;
        let state = lock(&semaphore.state);
        assert!(state.waiting.is_empty() && state.destinations.is_empty());
        assert!(state.turns[&Class::User].by_caller.is_empty());
        assert_eq!(state.holders[&Class::User].total, 0);
    }
}
