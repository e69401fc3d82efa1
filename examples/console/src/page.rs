//! The page: files that are part of the program.

use crate::problem::Problem;
use axum::{
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

struct Asset {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

const ASSETS: &[Asset] = &[
    Asset { path: "/", kind: "text/html; charset=utf-8", bytes: include_bytes!("../page/index.html") },
    Asset { path: "/style.css", kind: "text/css; charset=utf-8", bytes: include_bytes!("../page/style.css") },
    Asset { path: "/icon.svg", kind: "image/svg+xml", bytes: include_bytes!("../page/icon.svg") },
    Asset { path: "/console.js", kind: SCRIPT, bytes: include_bytes!("../page/console.js") },
    Asset { path: "/flow.js", kind: SCRIPT, bytes: include_bytes!("../page/flow.js") },
    Asset { path: "/forms.js", kind: SCRIPT, bytes: include_bytes!("../page/forms.js") },
    Asset { path: "/kinds.js", kind: SCRIPT, bytes: include_bytes!("../page/kinds.js") },
    Asset { path: "/kit.js", kind: SCRIPT, bytes: include_bytes!("../page/kit.js") },
];

/// Returns true for the path of a file of the page.
pub(crate) fn is_asset(path: &str) -> bool {
    ASSETS.iter().any(|asset| asset.path == path)
}

/// Serves a file of the page.
pub(crate) async fn serve(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let asset = ASSETS.iter().find(|asset| asset.path == uri.path());
    let Some(asset) = asset.filter(|_| method == Method::GET || method == Method::HEAD) else {
        return Problem::not_found("page", uri.path()).into_response();
    };
    // Another version of the program has other files, so browsers ask each time, and are told if nothing has changed.
    let tag = format!("\"{}\"", hex::encode(&Sha256::digest(asset.bytes)[..12]));
    let fixed = [(header::CACHE_CONTROL, "no-cache".to_owned()), (header::ETAG, tag.clone())];
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    if known.is_some_and(|known| known.contains(&tag)) {
        return (StatusCode::NOT_MODIFIED, fixed).into_response();
    }
    (fixed, [(header::CONTENT_TYPE, asset.kind)], asset.bytes).into_response()
}
