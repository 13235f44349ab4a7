-- What is remembered of other servers.
CREATE TABLE server (
    server_name TEXT    NOT NULL PRIMARY KEY, -- whose
    family      TEXT    NOT NULL,             -- the endpoint family that last gave media: msc1902, msc3916 or legacy
    proven_ms   INTEGER NOT NULL,             -- when it did; after a day the families are tried in their order again
    CHECK (family IN ('msc1902', 'msc3916', 'legacy'))
) STRICT, WITHOUT ROWID;
