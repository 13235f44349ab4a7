//! The rules over catalog and blobs.

#![allow(clippy::unwrap_used, reason = "tests")]

mod opening;
mod orphans;
mod removal;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Store;
use super::catalog::{self, NewMedia};
use super::fs::SystemFs;
use super::sha256::Sha256;
use crate::error::Result;
use crate::matrix::{MediaId, Mxc, ServerName, Timestamp};

fn open(folder: &Path) -> Result<Store> {
    Store::open(folder, Arc::new(SystemFs))
}

/// Why a store is not opened.
fn refusal(folder: &Path) -> String {
    open(folder).err().unwrap().causes()
}

/// A blob of `text`, without a row.
fn put(store: &Store, text: &str) -> Sha256 {
    let mut ingest = store.begin(100, None).unwrap();
    ingest.write(text.as_bytes()).unwrap();
    ingest.finish().unwrap().sha256()
}

/// A blob of `text` with its row.
fn add(store: &Store, text: &str) -> Sha256 {
    let sha256 = put(store, text);
    let content_type = "text/plain".to_owned();
    let filled = catalog::Filled { sha256, size: 1, content_type, upload_name: None };
    let mxc = Mxc {
        server_name: ServerName::parse("example.org").unwrap(),
        media_id: MediaId::parse(text).unwrap(),
    };
    let media = NewMedia { mxc, filled, user_id: None, created: Timestamp(0), open: true, anonymous: false };
    assert!(store.catalog.add(media).unwrap());
    sha256
}

/// Every file below `folder` but the catalog's, by name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.retain(|path| path.file_name().unwrap().len() == 64);
    found.sort();
    found
}

fn remove_catalog(folder: &Path) {
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        drop(std::fs::remove_file(folder.join(name)));
    }
}
