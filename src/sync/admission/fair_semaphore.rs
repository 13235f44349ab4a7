//! A semaphore that is fair between callers.
//!
//! Each class of callers has permits of its own. Inside a class a caller may hold as many as are still free (a dynamic threshold), so that
//! one caller alone gets half of them and there is always one left for the next. Waiting callers take turns by stride scheduling: those
//! who had least so far come first, and cheap work overtakes dear work within bounds.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
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
    /// The number of the next caller that enters a queue.
    next: u64,
    classes: HashMap<Class, OfClass>,
}

/// The permits and the queue of one class.
#[derive(Debug, Default)]
struct OfClass {
    holders: Holders,
    /// Permits by destination.
    destinations: HashMap<Share, Holders>,
    /// By caller, so that a long queue of one caller costs nothing while it is not its turn.
    waiting: HashMap<Share, BTreeMap<Place, Waiting>>,
    /// How many wait, all together.
    queued: usize,
    turns: Turns,
    counts: Counts,
}

/// A place in the queue of one caller: whose turn it is among equals, and the number of the arrival, which no two share.
type Place = (u64, u64);

/// A caller in the queue.
#[derive(Debug)]
struct Waiting {
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

/// A caller that waits. Takes it out of the queue when it stops.
struct InQueue<'a> {
    semaphore: &'a Arc<FairSemaphore>,
    caller: Caller,
    place: Place,
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
        loop {
            match self.wait(work, ask).await {
                Ok(permit) => return Ok(permit),
                // At that very moment somebody with more rights has joined.
                Err((_, class)) if work.caller().class < class => {}
                Err((refusal, _)) => return Err(refusal),
            }
        }
    }

    /// Waits for a permit once. A refusal comes with the class that was refused.
    async fn wait(self: &Arc<Self>, work: &Work, ask: Ask) -> Result<FairPermit, (Refusal, Class)> {
        let mut changes = work.changes();
        let (sender, mut permit) = oneshot::channel();
        let mut in_queue = self.enqueue(work.caller(), ask, sender);
        let mut late = pin!(tokio::time::sleep(self.limits.longest_wait));
        let granted = loop {
            tokio::select! {
                biased;
                permit = &mut permit => break permit.map_err(|_evicted| Refusal::Full),
                // An error is impossible: the work lives as long as this.
                _ = changes.changed() => if in_queue.follow(work.caller()) {
                    // Who joined has not waited yet.
                    let now = tokio::time::Instant::now();
                    late.as_mut().reset(now.checked_add(self.limits.longest_wait).unwrap_or(now));
                },
                () = &mut late => break Err(Refusal::Late),
            }
        };
        let class = in_queue.caller.class;
        granted.map_err(|refusal| {
            self.count_refusal(class, refusal);
            (refusal, class)
        })
    }

    /// A permit, if there is one for this caller right now.
    pub(crate) fn try_acquire(self: &Arc<Self>, caller: Caller, ask: Ask) -> Option<FairPermit> {
        let mut state = lock(&self.state);
        let class = state.of(caller.class);
        class.admits(&self.limits, caller, ask.destination).then(|| self.grant(class, caller, ask))
    }

    /// Whether callers of this class wait for a permit.
    pub(crate) fn is_contended(&self, class: Class) -> bool {
        lock(&self.state).of(class).queued > 0
    }

    /// What happened so far in a class.
    pub(crate) fn counts(&self, class: Class) -> Counts {
        let mut state = lock(&self.state);
        let OfClass { holders, queued, counts, .. } = state.of(class);
        let places = of_class(&self.limits.permits, class);
        Counts { places, running: holders.total, waiting: *queued, ..*counts }
    }

    /// Enters the queue, from which a permit that is free is taken at once. Where there is no place left in it, the channel is closed.
    fn enqueue(
        self: &Arc<Self>,
        caller: Caller,
        ask: Ask,
        permit: oneshot::Sender<FairPermit>,
    ) -> InQueue<'_> {
        let mut state = lock(&self.state);
        let number = state.next;
        state.next = number.wrapping_add(1);
        let behind = ask.cost.min(MAX_OVERTAKEN);
        let turn = match self.limits.order {
            Order::OldestFirst => number,
            Order::NewestFirst => u64::MAX.saturating_sub(MAX_OVERTAKEN).saturating_sub(number),
        };
        let place = (turn.saturating_add(behind), number);
        self.file(state, caller, place, Waiting { ask, since: Instant::now(), permit });
        InQueue { semaphore: self, caller, place }
    }

    /// Puts a caller into the queue of its class, gives the permits that are free, and if the queue is too long then, shortens it.
    fn file(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        caller: Caller,
        place: Place,
        waiting: Waiting,
    ) {
        let class = state.of(caller.class);
        class.queued = class.queued.saturating_add(1);
        class.waiting.entry(caller.share).or_default().insert(place, waiting);
        let grants = self.grant_all(class, caller.class);
        // Nobody waits for what never comes: a class without permits is shut out.
        let evicted = match of_class(&self.limits.permits, caller.class) {
            0 => class.remove(caller.share, place),
            _ => class.evict(&self.limits, caller.share),
        };
        drop(state);
        send(grants);
        // Dropped outside the lock: that wakes its task.
        drop(evicted);
    }

    /// Permits for all callers of a class whose turn it is.
    fn grant_all(self: &Arc<Self>, class: &mut OfClass, name: Class) -> Vec<Grant> {
        let mut grants = Vec::new();
        while let Some((share, Waiting { ask, since, permit })) = class.take_next(&self.limits, name) {
            class.counts.waited = class.counts.waited.saturating_add(since.elapsed());
            grants.push((permit, self.grant(class, Caller { class: name, share }, ask)));
        }
        grants
    }

    /// Counts a permit.
    fn grant(self: &Arc<Self>, class: &mut OfClass, caller: Caller, ask: Ask) -> FairPermit {
        let Ask { cost, destination } = ask;
        class.holders.add(caller.share);
        if let Some(destination) = destination {
            class.destinations.entry(destination).or_default().add(caller.share);
        }
        class.turns.take(caller.share, cost);
        class.counts.granted = class.counts.granted.saturating_add(1);
        FairPermit { semaphore: Arc::clone(self), caller, destination }
    }

    /// Counts a caller that got no permit.
    pub(crate) fn count_refusal(&self, class: Class, refusal: Refusal) {
        let mut state = lock(&self.state);
        let counts = &mut state.of(class).counts;
        let count = match refusal {
            Refusal::Full => &mut counts.refused_full,
            Refusal::Late => &mut counts.refused_late,
        };
        *count = count.saturating_add(1);
    }
}

impl State {
    fn of(&mut self, class: Class) -> &mut OfClass {
        self.classes.entry(class).or_default()
    }
}

impl OfClass {
    /// Whether a caller may have a further permit.
    fn admits(&self, limits: &FairLimits, caller: Caller, destination: Option<Share>) -> bool {
        self.admits_caller(limits, caller) && self.admits_destination(limits, caller, destination)
    }

    /// Whether a caller may have a further permit, whatever it is for.
    fn admits_caller(&self, limits: &FairLimits, Caller { class, share }: Caller) -> bool {
        self.holders.of(share) < limits.per_caller
            && self.holders.admits(share, of_class(&limits.permits, class))
    }

    /// Whether a caller may burden a destination further.
    fn admits_destination(&self, limits: &FairLimits, caller: Caller, destination: Option<Share>) -> bool {
        let Some(destination) = destination else { return true };
        let limit = of_class(&limits.per_destination, caller.class);
        match self.destinations.get(&destination) {
            Some(holders) => holders.admits(caller.share, limit),
            None => limit > 0,
        }
    }

    /// Takes the caller whose turn it is out of the queue, if there is a permit for it.
    fn take_next(&mut self, limits: &FairLimits, class: Class) -> Option<(Share, Waiting)> {
        if self.holders.total >= of_class(&limits.permits, class) {
            return None;
        }
        let turn = |(share, queue): (&Share, &BTreeMap<Place, Waiting>)| {
            let caller = Caller { class, share: *share };
            if !self.admits_caller(limits, caller) {
                return None;
            }
            let admits = |waiting: &Waiting| self.admits_destination(limits, caller, waiting.ask.destination);
            let (place, _) = queue.iter().find(|(_, waiting)| admits(waiting))?;
            Some(((self.turns.pass(*share), *place), *share))
        };
        let ((_, place), share) = self.waiting.iter().filter_map(turn).min_by_key(|(turn, _)| *turn)?;
        Some((share, self.remove(share, place)?))
    }

    /// Takes one out of a queue that became too long by a caller that has just entered it: of the caller that has most places, the one
    /// whose turn would come last.
    fn evict(&mut self, limits: &FairLimits, entered: Share) -> Option<Waiting> {
        let own = self.waiting.get(&entered).map_or(0, BTreeMap::len);
        let share = if own > limits.queue_per_caller {
            entered
        } else if self.queued > limits.queue {
            // Among equals the newcomer goes.
            let most = self.waiting.iter().max_by_key(|(share, queue)| (queue.len(), **share == entered));
            *most?.0
        } else {
            return None;
        };
        let (place, _) = self.waiting.get(&share)?.last_key_value()?;
        self.remove(share, *place)
    }

    /// Takes a caller out of the queue, if it is still there.
    fn remove(&mut self, share: Share, place: Place) -> Option<Waiting> {
        let queue = self.waiting.get_mut(&share)?;
        let waiting = queue.remove(&place)?;
        if queue.is_empty() {
            self.waiting.remove(&share);
        }
        self.queued = self.queued.saturating_sub(1);
        Some(waiting)
    }

    /// Counts a permit that came back.
    fn give_back(&mut self, share: Share, destination: Option<Share>) {
        self.holders.remove(share);
        if let Some(destination) = destination
            && let Some(holders) = self.destinations.get_mut(&destination)
        {
            holders.remove(share);
            if holders.total == 0 {
                self.destinations.remove(&destination);
            }
        }
        self.forget_idle(share);
    }

    /// Forgets the turns of a caller that has nothing and wants nothing.
    fn forget_idle(&mut self, share: Share) {
        if self.holders.of(share) == 0 && !self.waiting.contains_key(&share) {
            self.turns.by_caller.remove(&share);
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

impl InQueue<'_> {
    /// Goes to the queue of the caller for whose benefit the work is done by now. Returns whether that is another one than before.
    fn follow(&mut self, caller: Caller) -> bool {
        if caller == self.caller {
            return false;
        }
        let mut state = lock(&self.semaphore.state);
        // Whoever is not in the queue any more has got a permit, or is told by its channel that it got none.
        if let Some(waiting) = state.of(self.caller.class).remove(self.caller.share, self.place) {
            state.of(self.caller.class).forget_idle(self.caller.share);
            self.caller = caller;
            self.semaphore.file(state, caller, self.place, waiting);
        }
        true
    }
}

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.semaphore.state);
        let class = state.of(self.caller.class);
        let left = class.remove(self.caller.share, self.place);
        class.forget_idle(self.caller.share);
        // Its channel is closed outside the lock.
        drop(state);
        drop(left);
    }
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        let mut state = lock(&self.semaphore.state);
        let class = state.of(self.caller.class);
        class.give_back(self.caller.share, self.destination);
        let grants = self.semaphore.grant_all(class, self.caller.class);
        drop(state);
        send(grants);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

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
        assert!(Class::ALL.iter().all(|class| semaphore.counts(*class).waiting == 0));
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
    async fn who_joins_late_has_the_whole_wait_before_it() {
        let semaphore = FairSemaphore::new(FairLimits { permits: [1; 3], ..LIMITS });
        let _stranger = acquire(&semaphore, stranger(1)).await.unwrap().unwrap();
        let alice = acquire(&semaphore, user("alice")).await.unwrap().unwrap();
        let (work, _waiter) = Work::shared(stranger(2), None);
        let waiting = acquire_for(&semaphore, work.clone(), Ask::default());
        tokio::time::advance(Duration::from_secs(9)).await;
        settle().await;
        let _joined = work.join(user("bob"), None).unwrap();
        settle().await;
        tokio::time::advance(Duration::from_secs(9)).await;
        settle().await;
        assert!(!waiting.is_finished());
        drop(alice);
        assert_eq!(waiting.await.unwrap().unwrap().caller, user("bob"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_joins_at_the_moment_of_a_refusal_is_not_refused() {
        let semaphore = FairSemaphore::new(FairLimits { queue: 1, queue_per_caller: 1, ..LIMITS });
        let _held = acquire(&semaphore, stranger(1)).await.unwrap().unwrap();
        let (work, _waiter) = Work::shared(stranger(2), None);
        let mut refused = pin!(semaphore.acquire(&work, Ask::default()));
        let waits = std::future::poll_fn(|context| Poll::Ready(refused.as_mut().poll(context).is_pending()));
        assert!(waits.await);
        // Takes it out of the queue, which it has not seen yet.
        lock(&semaphore.state).of(Class::Unknown).waiting.clear();
        let _joined = work.join(user("bob"), None).unwrap();
        assert_eq!(refused.await.unwrap().caller, user("bob"));
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
        let mut state = lock(&semaphore.state);
        let OfClass { holders, destinations, waiting, queued, turns, .. } = state.of(Class::User);
        assert!(waiting.is_empty() && destinations.is_empty() && turns.by_caller.is_empty());
        assert_eq!((holders.total, *queued), (0, 0));
    }
}
