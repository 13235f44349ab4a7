//! One short async function for each endpoint: parse → authorise → call the service → respond.
//!
//! Owns the order of those steps: authentication is decided before any other check of the request.

pub(crate) mod client;
pub(crate) mod federation;
pub(crate) mod ops;

use std::sync::Arc;

use crate::accounts::{Account, Credential};
use crate::app::App;
use crate::error::{Error, Kind, Result};
use crate::federation::{UnverifiedRequest, Verification};
use crate::http::request::Call;
use crate::matrix::ServerName;
use crate::media::Viewer;
use crate::sync::pools::Pool;

/// Whose request it is; a token is required.
async fn authorise(app: &Arc<App>, call: &mut Call) -> Result<Account> {
    let missing = || Error::new(Kind::MissingToken, "an access token is required");
    let credential = call.credential()?.ok_or_else(missing)?;
    let account = who_is(app, credential).await?;
    account.user_id.as_str().clone_into(&mut call.access.caller);
    Ok(account)
}

/// Whose request it is; guests are refused.
async fn authorise_user(app: &Arc<App>, call: &mut Call) -> Result<Account> {
    let account = authorise(app, call).await?;
    if account.is_guest {
        return Err(Error::new(Kind::GuestForbidden, "guests may not do this"));
    }
    Ok(account)
}

/// In what capacity an open route is asked: a token that is sent must be good; while the homeserver cannot be asked, it
/// counts as none.
async fn authorise_viewer(app: &Arc<App>, call: &mut Call) -> Result<Viewer> {
    if call.credential()?.is_none() {
        return Ok(Viewer::Anonymous);
    }
    match authorise(app, call).await {
        Ok(_) => Ok(Viewer::Known),
        Err(error) if error.kind() == Kind::HomeserverFailed => Ok(Viewer::Anonymous),
        Err(error) => Err(error),
    }
}

/// Which server's request it is. Its keys are fetched if need be, once for all who wait for them.
async fn authorise_server(app: &Arc<App>, call: &mut Call) -> Result<ServerName> {
    let request = app.federation.identify(call.inbound())?;
    let outcome = match verify(app, request.clone()).await? {
        Verification::KeysMissing => {
            refresh_keys(app, &request.origin).await?;
            verify(app, request.clone()).await?
        }
        verified @ (Verification::Verified | Verification::VerifiedKeysExpireSoon) => verified,
    };
    match outcome {
        Verification::Verified => {}
        Verification::VerifiedKeysExpireSoon => {
            let (app, origin) = (Arc::clone(app), request.origin.clone());
            // In the background: this request is proven. A failure is logged by nobody, the next request tries again.
            tokio::spawn(async move { refresh_keys(&app, &origin).await });
        }
        Verification::KeysMissing => {
            let why = format!("{} does not have the signing key that the request names", request.origin);
            return Err(Error::new(Kind::BadSignature, why));
        }
    }
    request.origin.as_str().clone_into(&mut call.access.caller);
    Ok(request.origin)
}

/// Verifies a request with the keys in the catalog.
async fn verify(app: &Arc<App>, request: UnverifiedRequest) -> Result<Verification> {
    let federation = Arc::clone(&app.federation);
    app.pools.run(Pool::Lookup, move || federation.verify(&request)).await
}

/// Fetches a server's keys, one fetch at a time for each server.
async fn refresh_keys(app: &Arc<App>, origin: &ServerName) -> Result<()> {
    let (fetching, of) = (Arc::clone(app), origin.clone());
    let fetch = || async move {
        let federation = Arc::clone(&fetching.federation);
        fetching.pools.run(Pool::Keys, move || federation.refresh_keys(&of)).await
    };
    app.fetching_keys.run(origin.clone(), fetch).await
}

/// Asks the cache, else the homeserver; one question at a time for each token.
async fn who_is(app: &Arc<App>, credential: Credential) -> Result<Account> {
    let hash = credential.hash();
    if let Some(known) = app.accounts.cached(&hash) {
        return known;
    }
    let asking = Arc::clone(app);
    let ask = || async move {
        let accounts = Arc::clone(&asking.accounts);
        asking.pools.run(Pool::Homeserver, move || accounts.ask(&credential)).await
    };
    app.asking.run(hash, ask).await
}
