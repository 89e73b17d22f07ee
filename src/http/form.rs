//! `multipart/form-data` bodies (RFC 7578), streamed.

mod disposition;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    body::{Body, Bytes},
    extract::{
        FromRequest, Multipart, Request,
        multipart::{Field, MultipartError},
    },
    http::{HeaderMap, header},
};
use futures::{Stream, StreamExt, stream};

use self::disposition::Disposition;
use super::{
    body::{is_encoded, require_length, with_min_rate},
    problem::Problem,
};

/// Maximum number of bytes between two parts of a form: the multipart parser holds them in memory.
const MAX_BETWEEN_PARTS: usize = 256 << 10;

/// The parts of a form.
pub(super) struct Form {
    parts: Multipart,
    /// How many more bytes may arrive before the next part begins.
    allowed: Arc<AtomicUsize>,
}

/// One part.
pub(super) struct Part<'a> {
    /// The name of the field.
    pub(super) name: Option<String>,
    /// The name of the file, if the part is one.
    pub(super) file_name: Option<String>,
    /// The first bytes. `None` if the part is empty.
    first: Option<Bytes>,
    rest: Field<'a>,
}

impl Form {
    pub(super) async fn from_request(request: Request) -> Result<Self, Problem> {
        require_length(&request)?;
        let allowed = Arc::new(AtomicUsize::new(usize::MAX));
        let left = Arc::clone(&allowed);
        let request = request.map(|body| {
            Body::from_stream(with_min_rate(body).map(move |piece| {
                let piece = piece?;
                let fits = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| match left {
                    usize::MAX => Some(left),
                    left => left.checked_sub(piece.len()),
                });
                fits.map_err(|_| {
                    io::Error::other(format!("more than {MAX_BETWEEN_PARTS} bytes between two parts"))
                })?;
                Ok::<_, io::Error>(piece)
            }))
        });
        let parts = Multipart::from_request(request, &()).await.map_err(|_| {
            let hint =
                "send `Content-Type: multipart/form-data; boundary=…` with the boundary between the parts";
            Problem::bad_request("the multipart boundary is missing from Content-Type", hint)
        })?;
        Ok(Self { parts, allowed })
    }

    /// Returns the next part. The previous part must have been read to its end.
    ///
    /// Errors: a name cannot be read, or the content is encoded. Such a part must not be mistaken for one without a file.
    pub(super) async fn next_part(&mut self) -> Result<Option<Part<'_>>, Problem> {
        self.allowed.store(MAX_BETWEEN_PARTS, Ordering::Relaxed);
        let next = self.parts.next_field().await.map_err(|e| invalid_form(&e))?;
        self.allowed.store(usize::MAX, Ordering::Relaxed);
        let Some(mut rest) = next else { return Ok(None) };
        let Disposition { name, file_name } = disposition_of(rest.headers())?;
        refuse_encoded(rest.headers())?;
        let mut first = rest.chunk().await.map_err(|e| invalid_form(&e))?;
        while first.as_ref().is_some_and(Bytes::is_empty) {
            first = rest.chunk().await.map_err(|e| invalid_form(&e))?;
        }
        // A browser sends this for a file input in which no file was chosen.
        let file_name = file_name.filter(|name| !(name.is_empty() && first.is_none()));
        Ok(Some(Part { name, file_name, first, rest }))
    }
}

impl<'a> Part<'a> {
    pub(super) fn media_type(&self) -> Option<String> {
        self.rest.content_type().map(String::from)
    }

    /// The content.
    pub(super) fn into_bytes(
        self,
    ) -> impl Stream<Item = Result<Bytes, MultipartError>> + Send + Unpin + use<'a> {
        stream::iter(self.first.map(Ok)).chain(self.rest)
    }

    /// Reads the part to its end and drops its bytes.
    pub(super) async fn skip(self) -> Result<(), Problem> {
        let mut bytes = self.into_bytes();
        while bytes.next().await.transpose().map_err(|e| invalid_form(&e))?.is_some() {}
        Ok(())
    }
}

fn disposition_of(headers: &HeaderMap) -> Result<Disposition, Problem> {
    let unreadable = |what: &str| {
        let hint =
            "send one `Content-Disposition: form-data; name=\"…\"; filename=\"…\"` in UTF-8 with each part";
        Problem::bad_request(format!("invalid form: {what}"), hint)
    };
    let mut all = headers.get_all(header::CONTENT_DISPOSITION).iter();
    match (all.next(), all.next()) {
        (Some(one), None) => disposition::parse(one.as_bytes()).map_err(unreadable),
        (None, _) => Err(unreadable("a part has no Content-Disposition")),
        _ => Err(unreadable("a part has more than one Content-Disposition")),
    }
}

/// Refuses content that is not the bytes of one file.
fn refuse_encoded(headers: &HeaderMap) -> Result<(), Problem> {
    let value =
        |name: &str| headers.get(name).map(|value| value.as_bytes().trim_ascii().to_ascii_lowercase());
    let plain: [&[u8]; 3] = [b"binary", b"8bit", b"7bit"];
    let transfer_encoded =
        value("content-transfer-encoding").is_some_and(|value| !plain.contains(&&value[..]));
    let nested = value("content-type").is_some_and(|value| value.starts_with(b"multipart/"));
    if transfer_encoded || nested || is_encoded(headers) {
        let detail = "invalid form: a part is encoded or has parts of its own";
        return Err(Problem::bad_request(detail, "send each file as it is, in a part of its own"));
    }
    Ok(())
}

pub(super) fn invalid_form(e: &MultipartError) -> Problem {
    let hint = "send a complete multipart/form-data body (RFC 7578) in which each part has a name";
    Problem::bad_request(format!("invalid form: {}", e.body_text()), hint)
}

/// Returns the name without the folders before it: some browsers send a path as the file name.
pub(super) fn base_name(name: &str) -> &str {
    let name = name.rsplit('/').next().unwrap_or(name);
    // On Linux, a backslash is part of a name.
    let is_windows_path = name.starts_with(r"\\") || name.get(1..3) == Some(r":\");
    if is_windows_path { name.rsplit('\\').next().unwrap_or(name) } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_cut_off_and_other_backslashes_kept() {
        for (sent, name) in [
            ("a.txt", "a.txt"),
            ("photos/2026/a.txt", "a.txt"),
            (r"C:\Users\me\a.txt", "a.txt"),
            (r"\\server\share\a.txt", "a.txt"),
            (r"..\x/a.txt", "a.txt"),
            (r"a\b.txt", r"a\b.txt"),
            ("a\\", "a\\"),
            ("ä:", "ä:"),
        ] {
            assert_eq!(base_name(sent), name, "{sent}");
        }
    }
}
