//! Authentication: who calls. This is decided before anything else of a request is looked at.
//!
//! Owns which credentials each kind of route requires, and the principals. Refuses to know which routes exist (`server.rs`).

use std::net::IpAddr;
use std::sync::Arc;

use tracing::Instrument as _;

use crate::accounts::{Account, Credential};
use crate::app::App;
use crate::error::{Error, Kind, Result};
use crate::federation::{UnverifiedRequest, Verification};
use crate::http::request::Call;
use crate::log;
use crate::matrix::ServerName;
use crate::sync::admission::{Ask, Caller, Share, Work, WorkKind};
use crate::sync::pools::Pool;

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Auth {
    /// Anyone. A token that is sent must be valid; while the homeserver cannot be reached, the caller counts as anonymous.
    Optional,
    /// Holders of an access token.
    Required,
    /// Holders of an access token who are not guests.
    UserOnly,
    /// Other homeservers, by an X-Matrix signature.
    Server,
    /// The request is passed on to the homeserver, which checks the token itself.
    Homeserver,
    /// Anyone who can connect. The reverse proxy must not route to it.
    Internal,
    /// The operator: whoever can connect to `ops.listen`, which nothing else may reach.
    Operator,
}

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) enum Principal {
    /// A caller without credentials.
    Anonymous,
    /// The owner of a valid access token.
    User(Account),
    /// The operator, on `ops.listen`.
    Admin,
    /// The server whose signature on the request is valid.
    Server(ServerName),
}

impl Principal {
    /// This caller's class and share where work is admitted, and so the rights with which it sees media.
    pub(crate) fn caller(&self, client: Option<IpAddr>) -> Caller {
        match self {
            Self::Anonymous => Caller::unknown(client),
            Self::User(account) if account.is_guest => Caller::guest(client),
            Self::User(account) => Caller::user(&account.user_id),
            Self::Admin => Caller::operator(),
            Self::Server(name) => Caller::server(name),
        }
    }

    /// The account of a user.
    ///
    /// # Errors
    /// `MissingToken` for other principals.
    pub(crate) fn user(self) -> Result<Account> {
        match self {
            Self::User(account) => Ok(account),
            Self::Anonymous | Self::Admin | Self::Server(_) => Err(missing_token()),
        }
    }

    /// The user ID, server name or `admin`.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Anonymous => None,
            Self::Admin => Some("admin"),
            Self::User(account) => Some(account.user_id.as_str()),
            Self::Server(name) => Some(name.as_str()),
        }
    }
}

/// Finds out who calls, as far as `auth` requires it, and records the name in the access line.
///
/// # Errors
/// `MissingToken`, `UnknownToken`, `GuestForbidden`, `BadSignature` and the like for those who may not call, `HomeserverFailed` when the
/// homeserver cannot be asked.
pub(crate) async fn authenticate(app: &Arc<App>, auth: Auth, call: &mut Call) -> Result<Principal> {
    let principal = match auth {
        Auth::Optional => user_if_any(app, call).await?,
        Auth::Required | Auth::UserOnly => {
            let credential = call.credential()?.ok_or_else(missing_token)?;
            Principal::User(who_is(app, credential, call.access.client).await?)
        }
        Auth::Server => Principal::Server(server(app, call).await?),
        Auth::Operator => Principal::Admin,
        Auth::Homeserver | Auth::Internal => Principal::Anonymous,
    };
    if let Some(name) = principal.name() {
        name.clone_into(&mut call.access.caller);
    }
    match (auth, &principal) {
        (Auth::UserOnly, Principal::User(account)) if account.is_guest => {
            Err(Error::new(Kind::GuestForbidden, "guests may not do this"))
        }
        _ => Ok(principal),
    }
}

/// The error for a caller without an access token.
fn missing_token() -> Error {
    Error::new(Kind::MissingToken, "an access token is required")
}

/// The caller of a route that needs no token.
async fn user_if_any(app: &Arc<App>, call: &Call) -> Result<Principal> {
    let Some(credential) = call.credential()? else { return Ok(Principal::Anonymous) };
    match who_is(app, credential, call.access.client).await {
        Ok(account) => Ok(Principal::User(account)),
        Err(error) if error.kind() == Kind::HomeserverFailed => Ok(Principal::Anonymous),
        Err(error) => Err(error),
    }
}

/// The server that signed the request. Fetches its keys if necessary; all requests that need them share one fetch.
async fn server(app: &Arc<App>, call: &Call) -> Result<ServerName> {
    let request = app.federation.identify(call.inbound())?;
    let outcome = match verify(app, request.clone()).await? {
        Verification::KeysMissing => {
            let (federation, origin) = (Arc::clone(&app.federation), request.origin.clone());
            let is_proven = app.pools.run(Pool::Lookup, move || federation.is_proven(&origin)).await?;
            let unknown = Caller::unknown(call.access.client);
            let caller = if is_proven { Caller::server(&request.origin) } else { unknown };
            refresh_keys(app, &request.origin, caller).await?;
            verify(app, request.clone()).await?
        }
        verified @ (Verification::Verified | Verification::VerifiedKeysExpireSoon) => verified,
    };
    match outcome {
        Verification::Verified => {}
        Verification::VerifiedKeysExpireSoon => {
            let (app, origin) = (Arc::clone(app), request.origin.clone());
            // In the background, because this request is verified already. A failure is not logged; the next request tries again.
            let refresh = async move { refresh_keys(&app, &origin, Caller::server(&origin)).await };
            tokio::spawn(refresh.instrument(log::request_span()));
        }
        Verification::KeysMissing => {
            let why = format!("{} does not have the signing key that the request names", request.origin);
            return Err(Error::new(Kind::BadSignature, why));
        }
    }
    Ok(request.origin)
}

/// Verifies a request with the keys in the catalog.
async fn verify(app: &Arc<App>, request: UnverifiedRequest) -> Result<Verification> {
    let federation = Arc::clone(&app.federation);
    app.pools.run(Pool::Lookup, move || federation.verify(&request)).await
}

/// Fetches a server's keys, one fetch at a time for each server.
async fn refresh_keys(app: &Arc<App>, origin: &ServerName, caller: Caller) -> Result<()> {
    let (fetching, of) = (Arc::clone(app), origin.clone());
    let fetch = |work: Work| async move {
        let federation = Arc::clone(&fetching.federation);
        let ask = Ask::to(Share::of_server(&of));
        let step = move || federation.refresh_keys(&of);
        fetching.admission.run(WorkKind::KeyLookup, &work, ask, step).await
    };
    app.key_fetches.run(origin.clone(), caller, fetch).await
}

/// The owner of a token, from the cache or the homeserver. Requests with the same token share one check.
async fn who_is(app: &Arc<App>, credential: Credential, client: Option<IpAddr>) -> Result<Account> {
    let hash = credential.hash();
    if let Some(known) = app.accounts.cached(&hash) {
        return known;
    }
    let asking = Arc::clone(app);
    let ask = |work: Work| async move {
        let accounts = Arc::clone(&asking.accounts);
        let step = move || accounts.ask(&credential);
        asking.admission.run(WorkKind::HomeserverRequest, &work, Ask::default(), step).await
    };
    let account = app.token_checks.run(hash, client_of_homeserver(app, client), ask).await?;
    app.known_clients.insert(Caller::known_client(client).share, ());
    Ok(account)
}

/// The caller of a request to the homeserver, before the token is known: those at addresses from which a good token came lately count as
/// users, so that a flood of made-up tokens from elsewhere does not delay them.
pub(crate) fn client_of_homeserver(app: &App, client: Option<IpAddr>) -> Caller {
    let known = Caller::known_client(client);
    if app.known_clients.get(&known.share).is_some() { known } else { Caller::unknown(client) }
}
