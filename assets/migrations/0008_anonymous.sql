-- What nobody but callers without an access token wanted so far: the first to go when room is needed. A user or a server that asks for it
-- later clears the mark.
ALTER TABLE media ADD COLUMN anonymous INTEGER NOT NULL DEFAULT 0 CHECK (anonymous IN (0, 1));
ALTER TABLE thumbnail ADD COLUMN anonymous INTEGER NOT NULL DEFAULT 0 CHECK (anonymous IN (0, 1));

-- So that they are found without reading the whole table.
CREATE INDEX media_anonymous ON media (last_access_ms) WHERE anonymous = 1;
CREATE INDEX thumbnail_anonymous ON thumbnail (sha256) WHERE anonymous = 1;
