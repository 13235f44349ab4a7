-- Previews of linked pages, as answered.
CREATE TABLE preview (
    url        TEXT    NOT NULL PRIMARY KEY, -- as asked for, normalised, without fragment
    answer     TEXT    NOT NULL,             -- the JSON object answered: Open Graph keys (spec, preview_url)
    media_id   TEXT,                         -- our media that its og:image names, marked as preview; NULL: no image
    expires_ms INTEGER NOT NULL              -- when it goes, and its image with it
) STRICT, WITHOUT ROWID;

-- Which previews go next.
CREATE INDEX preview_by_expiry ON preview (expires_ms);

-- Marks the copy of a page's image. It belongs to nobody and goes with its preview.
ALTER TABLE media ADD COLUMN
    preview    INTEGER NOT NULL DEFAULT 0    -- 1: stored for a preview; a preview row names it
    CHECK (preview IN (0, 1));
