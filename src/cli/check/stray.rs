//! Why a request does not reach this sidecar, and how to fix it.

use crate::error::in_words;
use crate::outbound::OutboundError;

/// Why a path does not come here. The message says how to fix it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stray {
    /// Nobody answers.
    #[error("no answer ({}); see to the proxy", in_words(.0))]
    NoAnswer(OutboundError),
    /// A sidecar with another key or name answers.
    #[error("goes to another media-sidecar, or this one runs with another key")]
    OtherSidecar,
    /// A sidecar answers that marks its answers in another way.
    #[error("goes to another version of media-sidecar; restart the service")]
    OtherVersion,
    /// The proxy answers with this status that it reaches nobody.
    #[error(
        "the proxy does not reach media-sidecar (status {0}); let it connect to what `listen` names, see `media-sidecar proxy-config`"
    )]
    Unreachable(u16),
    /// Somebody else answers, with this status.
    #[error("does not come here (status {0}); see `media-sidecar proxy-config`")]
    Elsewhere(u16),
}
