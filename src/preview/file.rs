//! Links that lead to a file instead of a page: what it is by its first bytes, and a description of it.

use url::Url;

use super::Page;

/// What a body is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// HTML or XHTML.
    Html,
    /// JSON, perhaps oEmbed.
    Json,
    /// A picture that can be shown.
    Image,
    /// Something else: a file to name.
    File,
}

/// What a body is whose first bytes are `head` and whose `Content-Type` is `content_type`. 512 bytes are enough.
pub(crate) fn sniff(head: &[u8], content_type: Option<&str>) -> Format {
    let essence =
        content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if head.starts_with(b"\x89PNG") || head.starts_with(b"\xff\xd8\xff") || head.starts_with(b"GIF8") {
        return Format::Image;
    }
    match essence.as_str() {
        "" | "text/html" | "application/xhtml+xml" => Format::Html,
        "application/json" => Format::Json,
        _ => Format::File,
    }
}

/// Describes the file at `url`: by `disposition`'s name or the last part of its path, its type, and its size in bytes.
pub(crate) fn describe_file(
    url: &Url,
    disposition: Option<&str>,
    content_type: Option<&str>,
    size: Option<u64>,
) -> Page {
    let last = url.path_segments().and_then(|mut parts| parts.next_back()).map(str::to_owned);
    let title = disposition.and_then(crate::disposition::file_name).or(last);
    let description = [content_type.map(str::to_owned), size.map(|size| format!("{size} bytes"))];
    let description = description.into_iter().flatten().collect::<Vec<_>>().join(", ");
    Page { title, description: Some(description), ..Page::default() }
}
