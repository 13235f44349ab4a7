//! What of a page is not its text: menus, banners, footers, what is hidden, what asks for consent.
//!
//! Owns the lists, by the name of an element, its role, its classes and IDs, and its words.

use super::html::Tag;
use super::text;

/// What may end a part that is left out, besides its own end: pages forget to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hold {
    /// As a doubtful part, but what it shows counts: it is what is said of a picture, or around one.
    Caption,
    /// A main part or a heading of the first level. Its paragraphs count where there is no other text.
    Doubtful,
    /// A main part or a heading of the first level.
    Weak,
    /// A main part. Headings within count: the head of a page has its title; its paragraphs as in a doubtful part.
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
        "nav" | "footer" | "aside" | "menu" | "dialog" | "button" | "label" | "legend" | "title" => {
            Some(Hold::Medium)
        }
        "figcaption" | "caption" => Some(Hold::Caption),
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
    let has = |words: &[&str]| {
        [tag.get("class"), tag.get("id")].into_iter().flatten().any(|names| is_named(names, words))
    };
    if has(&FURNITURE) {
        return Some(Hold::Weak);
    }
    if has(&DOUBTFUL) {
        return Some(Hold::Doubtful);
    }
    has(&["caption"]).then_some(Hold::Caption)
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

/// Whether a text is one that any page has: it asks for consent to cookies, for scripts or for patience, or claims rights.
pub(super) fn is_boilerplate(text: &str) -> bool {
    if text.len() >= MAX_BOILERPLATE {
        return false;
    }
    let text = text.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let is_consent = text.contains("cookie") && has(&CONSENT);
    let is_about_scripts = text.contains("javascript") && has(&SCRIPTS);
    let is_claim = has(&CLAIMS) || ["©", "copyright ", "(c) "].iter().any(|start| text.starts_with(start));
    let is_waiting = text.starts_with("loading") && text.len() < "loading, please wait...".len();
    is_consent || is_waiting || is_about_scripts || (is_claim && text.len() < MAX_CLAIM)
}

/// Whether a text that any page has may be what a page about cookies says: it asks nobody for anything.
pub(super) fn is_about_cookies(text: &str) -> bool {
    let text = text.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    text.contains("cookie") && !text.contains("javascript") && !has(&CLAIMS) && !has(&ASKING)
}

/// Whether a text that is a link only tells readers to follow it.
pub(super) fn is_signpost(text: &str) -> bool {
    let text = text.to_lowercase();
    text.len() < MAX_CLAIM && SIGNPOSTS.iter().any(|word| text.contains(word))
}

/// Whether a text that is no sentence stands beside the text proper: the time and authors of an article, or a call to readers
/// in capitals.
pub(super) fn is_label(text: &str) -> bool {
    let count = |is: fn(char) -> bool| text.chars().filter(|c| is(*c)).count();
    let (digits, letters) = (count(|c| c.is_ascii_digit()), count(char::is_alphabetic));
    let is_time = digits >= 4 && digits.saturating_mul(5) > letters;
    let is_shouted = count(char::is_uppercase) > 0 && count(char::is_lowercase) == 0;
    !text::is_sentence(text) && (is_time || is_shouted)
}

/// Whether an element is the mark of a footnote, as wikis write it.
fn is_citation(tag: &Tag) -> bool {
    tag.get("class").is_some_and(|names| names.split_ascii_whitespace().any(|name| name == "reference"))
}

/// Whether a class or an ID has one of the words: `site-menu`, `cookieBanner`. `has-sidebar` names what is beside it.
fn is_named(names: &str, known: &[&str]) -> bool {
    names.split_ascii_whitespace().any(|name| {
        let has = |known: &[&str]| {
            words_of(name).any(|word| known.iter().any(|known| known.eq_ignore_ascii_case(word)))
        };
        !has(&BESIDE) && has(known)
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
const BESIDE: [&str; 9] = ["has", "no", "with", "is", "wrapper", "layout", "without", "overflow", "label"];

/// Words in classes and IDs of furniture.
const FURNITURE: [&str; 24] = [
    "advert",
    "advertisement",
    "breadcrumb",
    "breadcrumbs",
    "consent",
    "cookie",
    "cookiebanner",
    "cookieconsent",
    "cookies",
    "didomi",
    "footer",
    "gdpr",
    "menu",
    "modal",
    "nav",
    "navbar",
    "navbox",
    "navigation",
    "onetrust",
    "pager",
    "pagination",
    "popup",
    "skip",
    "usercentrics",
];

/// Words in classes and IDs of what often is furniture.
const DOUBTFUL: [&str; 15] = [
    "byline",
    "comments",
    "coordinates",
    "hatnote",
    "hidden",
    "newsletter",
    "noprint",
    "related",
    "share",
    "sharing",
    "sidebar",
    "signup",
    "social",
    "subscribe",
    "toc",
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

/// Words of those who ask their readers to agree, or tell what they do with the readers' data.
const ASKING: [&str; 16] = [
    "accept",
    "consent",
    "agree",
    "policy",
    "settings",
    "browser",
    "website",
    "this site",
    "our site",
    "experience",
    "analytics",
    "privacy",
    "zustimm",
    "akzeptier",
    "einverstanden",
    "aceptar",
];

/// Words of those who lead their readers elsewhere.
const SIGNPOSTS: [&str; 7] =
    ["redirect", "click here", "weitergeleitet", "klicken sie hier", "cliquez ici", "haga clic", "skip to"];

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
            "main SideBar-x x-nav",
            "pageFooter",
        ] {
            assert!(is_named(name, &FURNITURE), "{name}");
        }
        assert!(is_named("l-sidebar-fixed", &DOUBTFUL) && !is_named("l-sidebar-fixed", &FURNITURE));
        for name in
            ["has-sidebar", "navy", "menus", "content", "", "-", "--", "no-menu", "layoutSidebar", "Ä_ö"]
        {
            assert!(!is_named(name, &FURNITURE) && !is_named(name, &DOUBTFUL), "{name}");
        }
    }

    #[test]
    fn times_and_calls_are_no_text() {
        for text in [
            "Le Monde | 04.05.2015 à 13h36 • Mis à jour le 05.05.2015 | Par A. B",
            "22 Dec, 2016",
            "SIGN UP FOR OUR NEWSLETTER",
        ] {
            assert!(is_label(text), "{text}");
        }
        for text in [
            "In 2015 it was 30 years old.",
            "It was built between 1914 and 1918 by those who lived there",
            "日本語の文章",
            "NASA SAID YES.",
        ] {
            assert!(!is_label(text), "{text}");
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
            "Loading...",
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
