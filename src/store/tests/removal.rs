//! What goes, and who hears of it.

use std::sync::Mutex;

use super::super::catalog::{Added, PreviewLimits, Quota, Reservation, ThumbnailKey};
use super::super::{Incoming, Lookup, MadeThumbnail, PreviewImage, PreviewPage, Removed};
use super::*;
use crate::matrix::{Expiry, UserId};
use crate::store::blobs::Ingest;
use crate::store::catalog::Preview;

/// A store in a folder that goes with the first value, and what its listener has heard since it was last looked at.
struct Heard {
    folder: tempfile::TempDir,
    store: Store,
    reports: Arc<Mutex<Vec<Removed>>>,
}

impl Heard {
    /// Whether a new address was stored.
    fn add(&self, ingest: Ingest, incoming: Incoming) -> bool {
        self.store.add(ingest, incoming, Quota::default()).unwrap() == Added::Yes
    }

    /// Whether a created address was filled.
    fn fill(&self, ingest: Ingest, incoming: Incoming) -> bool {
        self.store.fill(ingest, incoming, Quota::default()).unwrap() == Added::Yes
    }

    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).unwrap();
        let reports = Arc::<Mutex<Vec<Removed>>>::default();
        let (hearing, root) = (Arc::clone(&reports), folder.path().join("blobs"));
        store.on_removal(move |removed| {
            let left = files(&root);
            let is_left = |sha256: &Sha256| left.iter().any(|path| path.ends_with(sha256.to_string()));
            // A blob that has replaced a damaged one is the only one that may be there.
            let replaced =
                removed.media.is_empty() && removed.previews.is_empty() && removed.blobs.len() == 1;
            assert!(replaced || !removed.blobs.iter().any(is_left), "told before it was gone");
            hearing.lock().unwrap().push(removed.clone());
        });
        Self { folder, store, reports }
    }

    /// The only report since the last call; `None` for none.
    fn report(&self) -> Option<Removed> {
        let mut reports = std::mem::take(&mut *self.reports.lock().unwrap());
        assert!(reports.len() <= 1, "{reports:?}");
        reports.pop()
    }

    fn ingest(&self, text: &str) -> Ingest {
        let mut ingest = self.store.begin(1000, None).unwrap();
        ingest.write(text.as_bytes()).unwrap();
        ingest
    }

    /// Whether a blob is there.
    fn has(&self, sha256: &Sha256) -> bool {
        self.store.blobs.size(sha256).is_some()
    }

    fn path(&self, sha256: &Sha256) -> PathBuf {
        let name = sha256.to_string();
        self.folder.path().join("blobs").join(name.get(..2).unwrap()).join(name)
    }

    /// Deletes media.
    fn forget(&self, mxc: &Mxc) -> Removed {
        self.store.finish_removal(self.store.catalog.forget(mxc).unwrap())
    }
}

fn incoming(id: &str) -> Incoming {
    let content_type = "text/plain".to_owned();
    Incoming {
        mxc: mxc(id),
        content_type,
        upload_name: None,
        user_id: None,
        created: Timestamp(1),
        open: true,
        anonymous: false,
    }
}

fn mxc(id: &str) -> Mxc {
    Mxc { server_name: ServerName::parse("example.org").unwrap(), media_id: MediaId::parse(id).unwrap() }
}

/// The name of the blob of `text`.
fn name(text: &str) -> Sha256 {
    use sha2::Digest as _;
    Sha256::from_bytes(sha2::Sha256::digest(text).into())
}

fn only_media(id: &str) -> Removed {
    Removed { media: vec![mxc(id)], ..Removed::default() }
}

#[test]
fn a_blob_goes_with_its_last_row_and_the_report_says_so() {
    let heard = Heard::new();
    for id in ["a", "b"] {
        assert!(heard.add(heard.ingest("shared"), incoming(id)));
    }
    assert_eq!(heard.report(), None);
    assert_eq!(heard.forget(&mxc("a")), only_media("a"));
    assert_eq!(heard.report(), Some(only_media("a")));
    assert!(heard.has(&name("shared")));
    let removed = Removed { blobs: vec![name("shared")], ..only_media("b") };
    assert_eq!(heard.forget(&mxc("b")), removed);
    assert_eq!(heard.report(), Some(removed));
    assert!(!heard.has(&name("shared")));
    assert!(heard.forget(&mxc("b")).is_empty());
    assert_eq!(heard.report(), None, "nothing went");
}

#[test]
fn media_that_gets_no_row_leaves_no_blob_unless_others_have_it() {
    let heard = Heard::new();
    assert!(heard.add(heard.ingest("first"), incoming("a")));
    assert!(!heard.add(heard.ingest("second"), incoming("a")), "the address is taken");
    assert!(!heard.has(&name("second")) && heard.has(&name("first")));
    assert!(!heard.add(heard.ingest("first"), incoming("a")));
    assert!(heard.has(&name("first")));
    assert!(!heard.fill(heard.ingest("third"), incoming("unknown")));
    assert!(!heard.has(&name("third")));
}

#[test]
fn an_address_is_pending_then_filled_or_removed() {
    let heard = Heard::new();
    let user_id = UserId::new("@a:example.org");
    for id in ["filled", "unfilled"] {
        let (user_id, created, expires) = (user_id.clone(), Timestamp(0), Expiry::at(Timestamp(100)));
        heard
            .store
            .reserve(Reservation {
                mxc: mxc(id),
                user_id,
                created,
                expires,
                limit: 9,
                quota: Quota::default(),
            })
            .unwrap();
        assert!(matches!(heard.store.find(&mxc(id)).unwrap(), Lookup::Pending { .. }));
    }
    assert!(heard.fill(heard.ingest("text"), incoming("filled")));
    assert!(matches!(heard.store.find(&mxc("filled")).unwrap(), Lookup::Stored(_)));
    assert!(heard.store.remove_expired(Timestamp(99)).unwrap().is_empty());
    assert_eq!(heard.store.remove_expired(Timestamp(100)).unwrap(), only_media("unfilled"));
    assert_eq!(heard.report(), Some(only_media("unfilled")));
    assert!(matches!(heard.store.find(&mxc("unfilled")).unwrap(), Lookup::Unknown));
}

#[test]
fn remote_media_whose_blob_is_lost_is_fetched_anew() {
    let heard = Heard::new();
    let stored = heard.store.add_remote(heard.ingest("old"), incoming("r")).unwrap().unwrap();
    assert_eq!((stored.content.sha256, stored.blob.size()), (name("old"), 3));
    std::fs::remove_file(heard.path(&name("old"))).unwrap();
    assert!(matches!(heard.store.find(&mxc("r")).unwrap(), Lookup::Lost { open: true }));

    let later = Incoming { created: Timestamp(5), open: false, ..incoming("r") };
    let stored = heard.store.add_remote(heard.ingest("new text"), later).unwrap().unwrap();
    assert_eq!((stored.content.sha256, stored.created), (name("new text"), Timestamp(5)));
    assert!(stored.open, "who may see it stays");
    assert_eq!(heard.report(), Some(Removed { blobs: vec![name("old")], ..only_media("r") }));

    // The same bytes again: what was opened of the address before is out of date all the same.
    std::fs::remove_file(heard.path(&name("new text"))).unwrap();
    let stored = heard.store.add_remote(heard.ingest("new text"), incoming("r")).unwrap().unwrap();
    assert_eq!(stored.created, Timestamp(5));
    assert_eq!(heard.report(), Some(only_media("r")));
}

/// A key of a thumbnail of `source`, `width` pixels wide.
fn key(source: &str, width: u32) -> ThumbnailKey {
    ThumbnailKey { source: name(source), crop: [0, 0, 9, 9], size: [width, 9], animated: false }
}

fn made(source: &str, width: u32) -> MadeThumbnail {
    let created = Timestamp(width.into());
    MadeThumbnail {
        key: key(source, width),
        content_type: "image/png",
        created,
        limit: 1,
        max_bytes: u64::MAX,
        anonymous: false,
    }
}

#[test]
fn thumbnails_make_room_and_go_with_their_source() {
    let heard = Heard::new();
    let keep = |text, width| heard.store.keep_thumbnail(heard.ingest(text), made("source", width)).unwrap();
    assert!(keep("of nothing", 1).is_none() && !heard.has(&name("of nothing")));
    heard.report();
    assert!(heard.add(heard.ingest("source"), incoming("a")));
    let kept = keep("one", 1).unwrap();
    assert_eq!((kept.content.sha256, kept.blob.size()), (name("one"), 3));
    keep("two", 2).unwrap();
    assert_eq!(heard.report(), None);
    keep("three", 3).unwrap();
    assert_eq!(heard.report(), Some(Removed { blobs: vec![name("one")], ..Removed::default() }));
    assert!(heard.store.thumbnail(&key("source", 1)).unwrap().is_none());

    heard.forget(&mxc("a"));
    heard.report();
    let mut removed = heard.store.remove_sourceless_thumbnails().unwrap();
    assert_eq!(heard.report().as_ref(), Some(&removed));
    let mut expected = vec![name("two"), name("three")];
    removed.blobs.sort_unstable();
    expected.sort_unstable();
    assert_eq!(removed, Removed { blobs: expected, ..Removed::default() });
}

#[test]
fn a_damaged_blob_that_is_replaced_takes_its_thumbnails_with_it() {
    let heard = Heard::new();
    assert!(heard.add(heard.ingest("source"), incoming("a")));
    heard.store.keep_thumbnail(heard.ingest("thumbnail"), made("source", 1)).unwrap().unwrap();
    std::fs::remove_file(heard.path(&name("source"))).unwrap();
    std::fs::write(heard.path(&name("source")), "sour").unwrap();
    // One of another source may have the same bytes.
    assert!(heard.add(heard.ingest("thumbnail"), incoming("t")));
    assert!(heard.add(heard.ingest("source"), incoming("b")));
    assert_eq!(heard.report(), Some(Removed { blobs: vec![name("source")], ..Removed::default() }));
    assert!(heard.store.thumbnail(&key("source", 1)).unwrap().is_none());
    assert!(heard.has(&name("thumbnail")));
    assert!(matches!(heard.store.find(&mxc("a")).unwrap(), Lookup::Stored(_)));
}

#[test]
fn a_preview_keeps_the_address_of_its_image_until_that_changes() {
    let heard = Heard::new();
    let keep = |id: &str, image: Option<&str>| {
        let page = PreviewPage {
            url: "https://page.example/".to_owned(),
            server_name: mxc("x").server_name,
            room: PreviewLimits { count: 9, bytes: 1000 },
        };
        let image = image.map(|text| PreviewImage { ingest: heard.ingest(text), incoming: incoming(id) });
        let describe = |mxc: Option<&Mxc>| Preview {
            answer: mxc.map_or_else(|| "none".to_owned(), ToString::to_string),
            expires: Expiry::at(Timestamp(5)),
        };
        heard.store.keep_preview(page, image, describe).unwrap().answer
    };
    assert_eq!(keep("a", Some("image")), "mxc://example.org/a");
    assert_eq!(keep("b", Some("image")), "mxc://example.org/a");
    assert_eq!(heard.report(), None);
    assert_eq!(keep("c", Some("another")), "mxc://example.org/c");
    assert_eq!(heard.report(), Some(Removed { blobs: vec![name("image")], ..only_media("a") }));
    assert_eq!(heard.store.preview("https://page.example/").unwrap().unwrap().answer, "mxc://example.org/c");

    let previews = vec!["https://page.example/".to_owned()];
    let removed = heard.store.remove_previews(Timestamp(5), &mxc("x").server_name, 1000).unwrap();
    assert_eq!(removed, Removed { media: vec![mxc("c")], blobs: vec![name("another")], previews });
    assert_eq!(heard.report(), Some(removed));
}

#[test]
fn a_blob_that_is_claimed_meanwhile_stays_and_is_not_reported() {
    let heard = Heard::new();
    assert!(heard.add(heard.ingest("text"), incoming("a")));
    let claim = heard.ingest("text").finish().unwrap();
    assert_eq!(heard.forget(&mxc("a")), only_media("a"));
    assert!(heard.has(&claim.sha256()));
}
