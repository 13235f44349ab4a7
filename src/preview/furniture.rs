//! What of a page is not its text: menus, banners, footers, what is hidden, what asks for consent.
//!
//! Owns the lists, by the name of an element, its role, its classes and IDs, and its words.

use super::html::Tag;
use super::text;

/// What may end a part that is left out, besides its own end: pages forget to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hold {
    /// A main part or a heading of the first level.
    Weak,
    /// A main part. Headings within count: the head of a page has its title.
    Header,
    /// A main part.
    Medium,
    /// Nothing: it is not shown.
    Strong,
}

/// Whether an element is left out, and what may end it.
pub(super) fn hold(tag: &Tag, is_in_main: bool) -> Option<Hold> {
    let name = tag.name();
    let by_name = match name {
        _ if text::is_unseen(name) => Some(Hold::Strong),
        "nav" | "footer" | "aside" | "menu" | "dialog" | "button" | "label" | "legend" | "figcaption"
        | "caption" | "title" => Some(Hold::Medium),
        "sup" if is_citation(tag) => Some(Hold::Medium),
        "header" if !is_in_main => Some(Hold::Header),
        _ => None,
    };
    if by_name.is_some() || matches!(name, "html" | "body" | "main" | "article" | "h1" | "head") {
        return by_name;
    }
    if is_hidden(tag) {
        return Some(Hold::Strong);
    }
    let role = tag.get("role").unwrap_or_default();
    if ROLES.contains(&role) {
        return Some(Hold::Medium);
    }
    if role == "banner" {
        return Some(Hold::Header);
    }
    let is_named = [tag.get("class"), tag.get("id")].into_iter().flatten().any(is_furniture_name);
    is_named.then_some(Hold::Weak)
}

/// Whether an element holds what the page is about.
pub(super) fn is_main(tag: &Tag) -> bool {
    matches!(tag.name(), "main" | "article")
        || tag.get("role") == Some("main")
        || tag
            .get("itemprop")
            .is_some_and(|name| name.split_ascii_whitespace().any(|word| word == "articleBody"))
}

/// Whether an element is not shown.
pub(super) fn is_hidden(tag: &Tag) -> bool {
    let style = tag.get("style").unwrap_or_default();
    let style: String =
        style.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_lowercase()).collect();
    tag.get("hidden").is_some()
        || tag.get("aria-hidden") == Some("true")
        || style.contains("display:none")
        || style.contains("visibility:hidden")
}

/// Whether a text is one that any page has: it asks for consent to cookies or for scripts, or claims rights.
pub(super) fn is_boilerplate(text: &str) -> bool {
    if text.len() >= MAX_BOILERPLATE {
        return false;
    }
    let text = text.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let is_consent = text.contains("cookie") && has(&CONSENT);
    let is_about_scripts = text.contains("javascript") && has(&SCRIPTS);
    let is_claim = has(&CLAIMS) || ["©", "copyright ", "(c) "].iter().any(|start| text.starts_with(start));
    is_consent || is_about_scripts || (is_claim && text.len() < MAX_CLAIM)
}

/// Whether an element is the mark of a footnote, as wikis write it.
fn is_citation(tag: &Tag) -> bool {
    tag.get("class").is_some_and(|names| names.split_ascii_whitespace().any(|name| name == "reference"))
}

/// Whether a class or an ID names furniture: `site-menu`, `cookieBanner`. `has-sidebar` names what is beside it.
fn is_furniture_name(names: &str) -> bool {
    names.split_ascii_whitespace().any(|name| {
        let words = || words_of(name);
        let is = |word: &str, known: &[&str]| known.iter().any(|known| known.eq_ignore_ascii_case(word));
        !words().any(|word| is(word, &BESIDE)) && words().any(|word| is(word, &FURNITURE))
    })
}

/// The words of a name, at `-`, `_` and where a capital follows a small letter.
fn words_of(name: &str) -> impl Iterator<Item = &str> {
    let mut rest = name;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(['-', '_']);
        let mut was_small = false;
        let end = rest.char_indices().find(|(_, c)| {
            let is_end = matches!(c, '-' | '_') || (was_small && c.is_ascii_uppercase());
            was_small = c.is_ascii_lowercase();
            is_end
        });
        let (word, after) = rest.split_at_checked(end.map_or(rest.len(), |(at, _)| at))?;
        rest = after;
        (!word.is_empty()).then_some(word)
    })
}

/// Roles of furniture.
const ROLES: [&str; 10] = [
    "navigation",
    "contentinfo",
    "complementary",
    "search",
    "dialog",
    "alertdialog",
    "alert",
    "menu",
    "menubar",
    "toolbar",
];

/// Words in names of what merely stands beside furniture, or is laid out with it.
const BESIDE: [&str; 7] = ["has", "no", "with", "is", "wrapper", "layout", "without"];

/// Words in classes and IDs of furniture.
const FURNITURE: [&str; 41] = [
    "advert",
    "advertisement",
    "breadcrumb",
    "breadcrumbs",
    "byline",
    "caption",
    "comments",
    "consent",
    "cookie",
    "cookiebanner",
    "cookieconsent",
    "cookies",
    "coordinates",
    "didomi",
    "footer",
    "gdpr",
    "hatnote",
    "hidden",
    "infobox",
    "menu",
    "modal",
    "nav",
    "navbar",
    "navbox",
    "navigation",
    "newsletter",
    "noprint",
    "onetrust",
    "pager",
    "pagination",
    "popup",
    "related",
    "share",
    "sharing",
    "sidebar",
    "signup",
    "skip",
    "social",
    "subscribe",
    "toc",
    "usercentrics",
];

/// Words of those who ask for consent to cookies, in several languages.
const CONSENT: [&str; 22] = [
    "accept",
    "consent",
    "agree",
    "use cookies",
    "uses cookies",
    "using cookies",
    "cookie policy",
    "cookie settings",
    "cookies verwende",
    "verwenden cookies",
    "verwendet cookies",
    "nutzt cookies",
    "nutzen cookies",
    "akzeptier",
    "zustimm",
    "einverstanden",
    "utilis",
    "utiliz",
    "aceptar",
    "gebruik",
    "uso de cookies",
    "файлы cookie",
];

/// Words of those who miss scripts.
const SCRIPTS: [&str; 6] = ["enable", "disabled", "turn on", "aktivier", "activ", "requires"];

/// Words of those who claim rights.
const CLAIMS: [&str; 4] = [
    "all rights reserved",
    "alle rechte vorbehalten",
    "tous droits réservés",
    "todos los derechos reservados",
];

/// From this length on a text is more than what any page has, bytes.
const MAX_BOILERPLATE: usize = 500;

/// From this length on a text is more than a claim of rights, bytes.
const MAX_CLAIM: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_furniture_are_told_by_their_words() {
        for name in [
            "site-menu",
            "cookie_banner",
            "cookieBanner",
            "CookieConsent",
            "main SideBar-toc x-nav",
            "pageFooter",
        ] {
            assert!(is_furniture_name(name), "{name}");
        }
        for name in
            ["has-sidebar", "navy", "menus", "content", "", "-", "--", "no-menu", "layoutSidebar", "Ä_ö"]
        {
            assert!(!is_furniture_name(name), "{name}");
        }
    }

    #[test]
    fn what_any_page_says_is_told_from_what_one_page_says() {
        for text in [
            "We use cookies to make this better.",
            "Diese Seite verwendet Cookies.",
            "Nous utilisons des cookies pour tout.",
            "Please enable JavaScript to view this page.",
            "© 2024 Example",
            "Copyright 2020 Example Ltd.",
            "Example. All rights reserved.",
        ] {
            assert!(is_boilerplate(text), "{text}");
        }
        for text in [
            "These chocolate chip cookies are the best.",
            "JavaScript is a language.",
            "The right to copyright law is old.",
        ] {
            assert!(!is_boilerplate(text), "{text}");
        }
    }
}
