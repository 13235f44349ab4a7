//! Properties of HTML elements by their names.
//!
//! Owns the lists that several readers need. Refuses to know attributes: what they say of an element is
//! [`super::boilerplate`]'s.

use super::html::Tag;

/// Whether an element begins a new line. All others, unknown ones included, are inline.
pub(super) fn is_block(name: &str) -> bool {
    BLOCKS.binary_search(&name).is_ok()
}

/// Whether the text in an element is not part of the page's text: it is not rendered, a fallback, or the value of a control.
pub(super) fn is_unrendered(name: &str) -> bool {
    UNRENDERED.binary_search(&name).is_ok()
}

/// Whether an element has no content and so no end tag.
pub(super) fn is_void(tag: &Tag) -> bool {
    VOID.contains(&tag.name()) || (tag.is_self_closing() && matches!(tag.name(), "svg" | "math"))
}

/// The void elements ([WHATWG](https://html.spec.whatwg.org/multipage/syntax.html#void-elements)) and the obsolete `param`.
const VOID: [&str; 14] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track",
    "wbr",
];

/// The elements rendered as blocks ([WHATWG,
/// rendering](https://html.spec.whatwg.org/multipage/rendering.html#flow-content-3)), sorted.
const BLOCKS: [&str; 58] = [
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "caption",
    "center",
    "col",
    "colgroup",
    "dd",
    "details",
    "dialog",
    "dir",
    "div",
    "dl",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "frame",
    "frameset",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hgroup",
    "hr",
    "html",
    "legend",
    "li",
    "listing",
    "main",
    "marquee",
    "menu",
    "nav",
    "ol",
    "optgroup",
    "option",
    "p",
    "plaintext",
    "pre",
    "search",
    "section",
    "summary",
    "table",
    "tbody",
    "td",
    "tfoot",
    "th",
    "thead",
    "tr",
    "ul",
    "xmp",
];

/// The elements whose text is not part of the page's, sorted.
const UNRENDERED: [&str; 21] = [
    "annotation",
    "annotation-xml",
    "applet",
    "audio",
    "canvas",
    "datalist",
    "iframe",
    "meter",
    "noembed",
    "noframes",
    "noscript",
    "object",
    "progress",
    "rp",
    "script",
    "select",
    "style",
    "svg",
    "template",
    "textarea",
    "video",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_for_the_binary_search() {
        assert!(BLOCKS.is_sorted() && UNRENDERED.is_sorted());
    }
}
