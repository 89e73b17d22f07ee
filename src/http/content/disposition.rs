//! Headers that make a browser download content, or show it if its media type is safe.

use axum::http::{HeaderMap, HeaderValue};

use super::super::{headers::header_value, problem::Problem};
use crate::content::cid::Cid;

/// Returns the media type that the uploader declared, or `application/octet-stream` if it is not valid.
pub(super) fn media_type(declared: Option<&str>) -> HeaderValue {
    let declared = declared.filter(|declared| declared.len() <= 200 && declared.contains('/'));
    let declared = declared.and_then(|declared| HeaderValue::from_str(declared).ok());
    declared.unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

/// Returns the media type under which a browser may show content, or `None`.
///
/// Types that can run scripts or load resources (HTML, SVG, all XML) are never shown. All other text is shown as plain text.
pub(super) fn inline_type(declared: Option<&str>) -> Option<HeaderValue> {
    let essence = declared?.split(';').next()?.trim().to_ascii_lowercase();
    let (kind, sub) = essence.split_once('/')?;
    let markup = sub.contains("xml") || sub.contains("svg") || sub.contains("html");
    let source = ["application/json", "application/toml", "application/yaml", "application/x-sh"];
    match kind {
        _ if markup => None,
        "image" | "audio" | "video" => HeaderValue::from_str(&essence).ok(),
        "text" => Some(HeaderValue::from_static("text/plain; charset=utf-8")),
        _ if essence == "application/pdf" => Some(HeaderValue::from_static("application/pdf")),
        _ if source.contains(&essence.as_str()) => {
            Some(HeaderValue::from_static("text/plain; charset=utf-8"))
        }
        _ => None,
    }
}

/// Content may do nothing in a browser. Chromium and Firefox show a PDF with their own viewers even so.
pub(super) const POLICY: &str =
    "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'";

/// Refuses content to a browser that would run it as part of a page, whatever its media type.
pub(in super::super) fn refuse_subresources(headers: &HeaderMap) -> Result<(), Problem> {
    let dest = headers.get("sec-fetch-dest").and_then(|dest| dest.to_str().ok()).unwrap_or_default();
    if dest == "script"
        || dest == "style"
        || dest == "xslt"
        || dest.ends_with("worker")
        || dest.ends_with("worklet")
    {
        let hint = "use it as an image, audio, video or download";
        return Err(Problem::denied("content is not served as a script, style or worker of a page", hint));
    }
    Ok(())
}

/// Returns a `Content-Disposition` with the name twice: in ASCII for old clients, and in UTF-8 (RFC 8187). The name has no
/// slash, and is the CID instead of an empty name, `.` or `..`, so that no client saves a file elsewhere.
pub(in super::super) fn disposition(kind: &str, name: &str, cid: &Cid) -> HeaderValue {
    let name = match name {
        "" | "." | ".." => cid.to_string(),
        name => name.replace(['/', '\\'], "_"),
    };
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%') || c == ' ' { c } else { '_' })
        .collect();
    let full: String = name.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
        }
        out
    });
    header_value(&format!("{kind}; filename=\"{plain}\"; filename*=UTF-8''{full}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::content::cid::Codec;

    #[test]
    fn an_invalid_media_type_becomes_octet_stream() {
        assert_eq!(media_type(Some("text/plain")), "text/plain");
        for odd in [None, Some("text/\nplain"), Some("\u{7f}"), Some("plain")] {
            assert_eq!(media_type(odd), "application/octet-stream");
        }
    }

    #[test]
    fn content_that_can_run_is_never_shown() {
        for harmful in [
            "text/html",
            "TEXT/HTML; charset=x",
            "image/svg+xml",
            "image/SVG",
            "application/xhtml+xml",
            "text/xml",
            "application/xml",
            "text/xsl+xml",
            "application/javascript",
            "application/octet-stream",
            "",
            "html",
        ] {
            assert_eq!(inline_type(Some(harmful)), None, "{harmful}");
        }
        for (declared, shown) in [
            ("image/png", "image/png"),
            ("video/mp4; codecs=x", "video/mp4"),
            ("text/javascript", "text/plain; charset=utf-8"),
            ("application/json", "text/plain; charset=utf-8"),
            ("application/pdf", "application/pdf"),
        ] {
            assert_eq!(inline_type(Some(declared)).expect("shown"), shown, "{declared}");
        }
    }

    #[test]
    fn a_name_cannot_break_out_of_its_header() {
        let cid = Cid::of(Codec::Raw, b"x");
        let value = disposition("attachment", "a\"b\\c\r\nX: y/ü.txt", &cid);
        assert_eq!(
            value.to_str().ok(),
            Some(
                "attachment; filename=\"a_b_c__X: y__.txt\"; filename*=UTF-8''a%22b_c%0D%0AX%3A%20y_%C3%BC.txt"
            )
        );
        let named = |name: &str| disposition("inline", name, &cid).to_str().expect("plain").to_owned();
        assert_eq!(named("../../etc/x"), "inline; filename=\".._.._etc_x\"; filename*=UTF-8''.._.._etc_x");
        for folder in ["", ".", ".."] {
            assert_eq!(named(folder), format!("inline; filename=\"{cid}\"; filename*=UTF-8''{cid}"));
        }
    }

    proptest! {
        #[test]
        fn every_name_survives_its_header(name in any::<String>()) {
            let cid = Cid::of(Codec::Raw, b"x");
            let value = disposition("inline", &name, &cid);
            let text = value.to_str().expect("plain characters");
            let (plain, full) = text.split_once("\"; filename*=UTF-8''").expect("both forms");
            let plain = plain.strip_prefix("inline; filename=\"").expect("the plain form");
            prop_assert!(!plain.contains(['"', '\\', '/', '%', '\r', '\n']) && !["", ".", ".."].contains(&plain));
            let kept = match name.as_str() {
                "" | "." | ".." => cid.to_string(),
                name => name.replace(['/', '\\'], "_"),
            };
            prop_assert_eq!(percent_decode(full), kept.as_bytes());
        }

        #[test]
        fn no_media_type_makes_a_browser_run_content(declared in prop_oneof![".{0,60}", "[a-z]{1,6}/[a-z+;. =]{0,20}"]) {
            if let Some(shown) = inline_type(Some(&declared)) {
                let shown = shown.to_str().expect("plain characters");
                let run = ["html", "xml", "svg", "script"].iter().any(|bad| shown.contains(bad));
                prop_assert!(!run || shown.starts_with("image/") || shown.starts_with("audio/") || shown.starts_with("video/"), "{}", shown);
                prop_assert!(["image/", "audio/", "video/", "text/plain", "application/pdf"].iter().any(|kind| shown.starts_with(kind)));
            }
        }
    }

    fn percent_decode(text: &str) -> Vec<u8> {
        let mut bytes = text.bytes();
        let mut out = Vec::new();
        while let Some(byte) = bytes.next() {
            let hex = (byte == b'%')
                .then(|| [bytes.next().expect("two digits"), bytes.next().expect("two digits")]);
            match hex {
                Some(hex) => out.extend(data_encoding::HEXUPPER.decode(&hex).expect("hex")),
                None => out.push(byte),
            }
        }
        out
    }
}
