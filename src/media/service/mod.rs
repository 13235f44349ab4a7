//! What requests share on the async side: media that is waited for, fetched and served again, thumbnails and previews made
//! once for all who ask.
//!
//! Owns who waits for whom and what is done in one go; what is done, in blocking code, is `media/`'s. Refuses to know how a
//! request came in.

mod content;
mod previews;
mod thumbnails;

pub(crate) use self::content::{AccessOptions, Obtained, WaitFor, obtain};
pub(crate) use self::previews::preview;
pub(crate) use self::thumbnails::{blurhash, pregenerate, thumbnail};
