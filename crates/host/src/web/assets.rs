//! The UI's files: embedded at build time, or in a folder.

use std::borrow::Cow;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::{Error, Shared};

include!(concat!(env!("OUT_DIR"), "/ui_files.rs"));

/// Where the UI's files are.
#[derive(Debug, Clone)]
pub struct Assets(Place);

#[derive(Debug, Clone)]
enum Place {
    Embedded,
    Folder(PathBuf),
}

impl Assets {
    /// Those built into this program.
    ///
    /// # Errors
    /// It was built without them.
    pub fn embedded() -> Result<Self, Error> {
        if FILES.is_empty() { Err(Error::NotBuilt) } else { Ok(Self(Place::Embedded)) }
    }

    /// Those in a folder, `ui/dist` of a clone.
    ///
    /// # Errors
    /// There are none.
    pub fn folder(path: PathBuf) -> Result<Self, Error> {
        if path.join("index.html").is_file() {
            Ok(Self(Place::Folder(path)))
        } else {
            Err(Error::NoIndex { path })
        }
    }

    async fn read(&self, name: &str) -> Option<Cow<'static, [u8]>> {
        match &self.0 {
            Place::Embedded => {
                FILES.iter().find(|(file, _)| *file == name).map(|(_, bytes)| Cow::Borrowed(*bytes))
            }
            Place::Folder(folder) => {
                let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
                let path = folder.join(name);
                if inside { tokio::fs::read(path).await.ok().map(Cow::Owned) } else { None }
            }
        }
    }
}

pub(super) async fn file(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    let name = match uri.path().trim_start_matches('/') {
        "" => "index.html",
        name => name,
    };
    match shared.assets.read(name).await {
        Some(bytes) => ([(header::CONTENT_TYPE, mime(name))], bytes.into_owned()).into_response(),
        None => (StatusCode::NOT_FOUND, "no such file").into_response(),
    }
}

fn mime(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "woff2" => "font/woff2",
        "json" => "application/json",
        _ => "application/octet-stream",
    }
}
