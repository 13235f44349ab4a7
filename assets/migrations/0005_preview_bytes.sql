-- What the images of previews take, without a look at all other media. Several previews may share a blob. `preview` is in it so
-- that no row has to be read.
CREATE INDEX media_of_previews ON media (sha256, size, preview) WHERE preview = 1;
