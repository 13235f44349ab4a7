//! `bench-fill`: what measurements are taken on.

use std::collections::HashSet;

use rusqlite::Connection;

use crate::binary::{Folder, text};

/// Server name, media ID and size of every row.
fn rows(folder: &Folder) -> Vec<(String, String, u32)> {
    let catalog = Connection::open(folder.path("data/catalog.db")).unwrap();
    let mut statement = catalog.prepare("SELECT server_name, media_id, size FROM media").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn rows_are_added_to_those_there_and_each_can_be_downloaded() {
    let folder = Folder::new("");
    for count in ["300", "33"] {
        let output = folder.run(&["bench-fill", count]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).starts_with(&format!("added {count} rows in ")));
    }
    let rows = rows(&folder);
    assert_eq!(rows.len(), 333);
    let servers: HashSet<_> = rows.iter().map(|(server_name, _, _)| server_name.as_str()).collect();
    assert!(servers.contains("sidecar.test") && servers.len() > 10, "local and remote rows: {servers:?}");

    let service = folder.serve();
    for (server_name, media_id, size) in rows.iter().step_by(10) {
        let answer =
            service.alice().get(&format!("/_matrix/client/v1/media/download/{server_name}/{media_id}"));
        assert_eq!((answer.status, answer.body.len()), (200, usize::try_from(*size).unwrap()));
    }
}

#[test]
fn a_running_service_keeps_its_catalog_to_itself() {
    let folder = Folder::new("");
    let _service = folder.serve();
    let output = folder.run(&["bench-fill", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("another media-sidecar is running there"), "{output:?}");
    assert_eq!(rows(&folder), []);
}
