//! What a user names as a capture: a file, standard input or a pipe.

use super::error::CaptureError;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use tempfile::{NamedTempFile, TempPath};

/// A capture that can be read as often as is needed: what can be read only once is kept in a temporary file meanwhile, so that
/// memory does not have to hold it.
#[derive(Debug)]
pub struct Input {
    given: PathBuf,
    kept: Option<TempPath>,
}

impl Input {
    /// What a path stands for; `-` is standard input.
    ///
    /// # Errors
    /// What can be read only once can't be read, or there is no room for it.
    pub fn new(given: &Path) -> Result<Input, CaptureError> {
        let read_once = Input::is_read_once(given);
        let given = given.to_path_buf();
        if !read_once {
            return Ok(Input { given, kept: None });
        }
        let name = name_of(&given);
        let room = |source| {
            let folder = std::env::temp_dir();
            let name = format!("no room in {} to keep {name} while it is read (TMPDIR names another folder)", folder.display());
            CaptureError::Io { name, source }
        };
        let mut kept = NamedTempFile::with_prefix("lvscheck-").map_err(room)?;
        let reading = |source| CaptureError::Io { name: name.clone(), source };
        let mut stream: Box<dyn Read> = match given.as_os_str() == "-" {
            true => Box::new(io::stdin().lock()),
            false => Box::new(File::open(&given).map_err(reading)?),
        };
        io::copy(&mut stream, &mut kept).map_err(room)?;
        Ok(Input { given, kept: Some(kept.into_temp_path()) })
    }

    /// Whether a path stands for what can be read only once.
    pub fn is_read_once(path: &Path) -> bool {
        let is_pipe = || path.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir());
        path.as_os_str() == "-" || is_pipe()
    }

    /// What it is called.
    pub fn name(&self) -> String {
        name_of(&self.given)
    }

    /// As the user wrote it.
    pub fn given(&self) -> &Path {
        &self.given
    }

    /// The file's name without its extension: what its interfaces are called where the capture does not say.
    pub fn stem(&self) -> Option<String> {
        self.given.file_stem().map(|stem| stem.to_string_lossy().into_owned())
    }

    /// Where it can be read.
    pub fn path(&self) -> &Path {
        self.kept.as_deref().unwrap_or(&self.given)
    }
}

fn name_of(given: &Path) -> String {
    if given.as_os_str() == "-" { "standard input".to_owned() } else { given.display().to_string() }
}
