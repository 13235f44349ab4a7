//! Links that lead to a file instead of a page: a description of the file.
//!
//! Owns the words for media types and sizes. Refuses to know the file's bytes: [`mod@super::sniff`] tells what they are.

use percent_encoding::percent_decode_str;
use url::Url;

use super::page::MAX_TITLE;
use super::sniff::media_type;
use super::{Image, ImageSource, Page, text};
use crate::http::disposition;

/// Describes the file at `url` by its name, its media type and its `size` in bytes. The name is that of `disposition`
/// (`Content-Disposition`), else the last segment of the path, else the host. An image is the page's image; video and audio get
/// the keys that Open Graph has for them.
pub(crate) fn describe_file(
    url: &Url,
    disposition: Option<&str>,
    content_type: Option<&str>,
    size: Option<u64>,
) -> Page {
    let media_type = media_type(&[], content_type);
    // A trailing slash leaves an empty last segment.
    let last = || url.path_segments()?.rfind(|part| !part.is_empty());
    let name = disposition
        .and_then(disposition::file_name)
        .or_else(|| Some(percent_decode_str(last()?).decode_utf8_lossy().into_owned()))
        .or_else(|| url.host_str().map(str::to_owned));
    let kind = name_of_type(&media_type);
    let description = size.map_or_else(|| kind.clone(), |size| format!("{kind}, {}", readable_size(size)));
    let mut page = Page {
        title: name.and_then(|name| text::line(&name, MAX_TITLE)),
        description: text::line(&description, MAX_TITLE),
        ..Page::default()
    };
    let key = match media_type.split_once('/') {
        Some(("image", format)) if format != "svg+xml" => {
            page.images.push(Image {
                url: url.clone(),
                width: None,
                height: None,
                alt: None,
                source: ImageSource::Declared,
            });
            return page;
        }
        Some(("video", _)) => "og:video",
        Some(("audio", _)) => "og:audio",
        _ => return page,
    };
    page.more.insert(key.to_owned(), url.as_str().to_owned());
    page.more.insert(format!("{key}:type"), media_type);
    page
}

/// The name of a media type for readers, as in `PDF document`.
fn name_of_type(media_type: &str) -> String {
    if let Some((_, name)) = NAMES.iter().find(|(known, _)| *known == media_type) {
        return (*name).to_owned();
    }
    match media_type.split_once('/') {
        Some(("image", kind)) => format!("{} image", short_name(kind)),
        Some(("video", kind)) => format!("{} video", short_name(kind)),
        Some(("audio", kind)) => format!("{} audio", short_name(kind)),
        _ => media_type.to_owned(),
    }
}

/// The name of a subtype without `x-` and in capitals: `x-flac` is `FLAC`.
fn short_name(kind: &str) -> String {
    kind.trim_start_matches("x-").to_ascii_uppercase()
}

/// A size with a decimal unit: `999 B`, `34 kB`, `1.5 MB`.
fn readable_size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    let Some((unit, name)) = UNITS.iter().find(|(unit, _)| bytes >= *unit) else {
        return format!("{bytes} B");
    };
    let tenth_of_unit = unit.div_euclid(10);
    // Rounded in tenths of the unit, half up.
    let tenths = bytes.saturating_add(tenth_of_unit.div_euclid(2)).div_euclid(tenth_of_unit);
    let (whole, tenth) = (tenths.div_euclid(10), tenths.rem_euclid(10));
    if whole >= 10 || tenth == 0 { format!("{whole} {name}") } else { format!("{whole}.{tenth} {name}") }
}

/// Names that do not follow from the media type.
const NAMES: [(&str, &str); 38] = [
    ("application/octet-stream", "File"),
    ("application/atom+xml", "Atom feed"),
    ("application/epub+zip", "EPUB book"),
    ("application/feed+json", "JSON feed"),
    ("application/gzip", "Gzip archive"),
    ("application/java-archive", "Java archive"),
    ("application/json", "JSON"),
    ("application/msword", "Word document"),
    ("application/pdf", "PDF document"),
    ("application/postscript", "PostScript document"),
    ("application/rss+xml", "RSS feed"),
    ("application/rtf", "RTF document"),
    ("application/vnd.android.package-archive", "Android app"),
    ("application/vnd.debian.binary-package", "Debian package"),
    ("application/vnd.ms-excel", "Excel workbook"),
    ("application/vnd.ms-powerpoint", "PowerPoint presentation"),
    ("application/vnd.oasis.opendocument.presentation", "OpenDocument presentation"),
    ("application/vnd.oasis.opendocument.spreadsheet", "OpenDocument spreadsheet"),
    ("application/vnd.oasis.opendocument.text", "OpenDocument text"),
    ("application/vnd.openxmlformats-officedocument.presentationml.presentation", "PowerPoint presentation"),
    ("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "Excel workbook"),
    ("application/vnd.openxmlformats-officedocument.wordprocessingml.document", "Word document"),
    ("application/x-7z-compressed", "7-Zip archive"),
    ("application/x-bittorrent", "Torrent"),
    ("application/x-bzip2", "Bzip2 archive"),
    ("application/x-tar", "Tar archive"),
    ("application/x-xz", "XZ archive"),
    ("application/xml", "XML"),
    ("application/zip", "ZIP archive"),
    ("audio/mpeg", "MP3 audio"),
    ("image/svg+xml", "SVG drawing"),
    ("text/calendar", "Calendar"),
    ("text/csv", "CSV table"),
    ("text/markdown", "Markdown text"),
    ("text/plain", "Text"),
    ("text/xml", "XML"),
    ("video/quicktime", "QuickTime video"),
    ("video/x-msvideo", "AVI video"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_described_by_name_type_and_size() {
        let url = Url::parse("https://x.example/files/yearly%20report%202025.pdf?dl=1").unwrap();
        let pdf = Some("application/pdf; x=y");
        let page = describe_file(&url, None, pdf, Some(1_480_000));
        assert_eq!(page.title.as_deref(), Some("yearly report 2025.pdf"));
        assert_eq!(page.description.as_deref(), Some("PDF document, 1.5 MB"));
        let page = describe_file(&url, Some("attachment; filename*=utf-8''r%E2%80%AE.pdf"), pdf, None);
        assert_eq!(page.title.as_deref(), Some("r.pdf"));
        assert_eq!(page.description.as_deref(), Some("PDF document"));
        for (kind, expected) in [
            ("application/rss+xml; charset=utf-8", "RSS feed"),
            ("application/epub+zip", "EPUB book"),
            ("application/atom+xml", "Atom feed"),
            ("text/xml", "XML"),
        ] {
            assert_eq!(describe_file(&url, None, Some(kind), None).description.as_deref(), Some(expected));
        }
    }

    #[test]
    fn images_video_and_audio_get_their_open_graph_keys() {
        let url = Url::parse("https://x.example/a.mp4").unwrap();
        let page = describe_file(&url, None, Some("video/mp4"), Some(34_000));
        assert_eq!(page.description.as_deref(), Some("MP4 video, 34 kB"));
        assert_eq!(page.more["og:video"], url.as_str());
        assert_eq!(page.more["og:video:type"], "video/mp4");
        let page = describe_file(&url, None, Some("image/png"), Some(999));
        assert_eq!(
            (page.images[0].url.clone(), page.description.as_deref()),
            (url, Some("PNG image, 999 B"))
        );
        let host = Url::parse("https://x.example/").unwrap();
        let page = describe_file(&host, None, Some("audio/mpeg"), None);
        assert_eq!(
            (page.title.as_deref(), page.more["og:audio"].as_str()),
            (Some("x.example"), "https://x.example/")
        );
    }

    #[test]
    fn a_content_type_that_is_not_a_media_type_is_ignored() {
        let url = Url::parse("https://x.example/a.mp4").unwrap();
        for declared in ["video/x\u{1}y", "video/x\ty", "video/", "/mp4", "video/é", "video/mp4/x"] {
            assert_eq!(media_type(&[], Some(declared)), disposition::UNKNOWN_TYPE, "{declared:?}");
            assert!(describe_file(&url, None, Some(declared), None).more.is_empty(), "{declared:?}");
        }
        assert_eq!(media_type(&[], Some("Video/X-Y.z+w ;a=b")), "video/x-y.z+w");
    }

    #[test]
    fn sizes_have_at_most_two_digits_and_a_unit() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1 kB"),
            (1449, "1.4 kB"),
            (34_567, "34 kB"),
            (999_999, "1000 kB"),
            (2_500_000, "2.5 MB"),
            (u64::MAX, "18446744073 GB"),
        ] {
            assert_eq!(readable_size(bytes), expected, "{bytes}");
        }
    }
}
