//! A golden case: a folder with case.toml, an input, a director and the expected output.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// case.toml. A recording of a real system has all of it; a case of one's own needs only what differs from the defaults.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaseFile {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// What it shows, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub what: String,
    /// The forwarding mode, in words; informative, except for a case without a director.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mode: String,
    /// Which system recorded it, or `lvscheck`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub system: String,
    /// The exact release that recorded it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kernel: String,
    /// How many frames go in, as a check of the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames_in: Option<u64>,
    /// How many frames come out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames_out: Option<u64>,
    /// What is random in it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random: Option<toml::Value>,
    /// The input's file name.
    #[serde(default = "default_input", skip_serializing_if = "is_default_input")]
    pub input: String,
    /// The expected output's file name.
    #[serde(default = "default_output", skip_serializing_if = "is_default_output")]
    pub output: String,
    /// Fields that the comparison masks, each with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ignore: BTreeMap<String, String>,
    /// How long the recording listened after the last frame or change, in seconds, before it read the tables in state/. A moment
    /// when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linger: Option<f64>,
    /// When the connection listings in state/ were taken: file name, seconds after the first frame.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub state: BTreeMap<String, f64>,
}

fn default_input() -> String {
    "in.pcapng".to_owned()
}

fn default_output() -> String {
    "out.pcapng".to_owned()
}

fn is_default_input(name: &str) -> bool {
    name == "in.pcapng"
}

fn is_default_output(name: &str) -> bool {
    name == "out.pcapng"
}

/// A case as found on disk.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its path below the folder that was searched, which names it.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Its case.toml.
    pub file: CaseFile,
}

impl Case {
    /// The input capture.
    pub fn input(&self) -> PathBuf {
        self.folder.join(&self.file.input)
    }

    /// The expected output; a golden without any frame may be missing or empty.
    pub fn output(&self) -> PathBuf {
        self.folder.join(&self.file.output)
    }

    /// The director's description.
    pub fn director(&self) -> PathBuf {
        self.folder.join("director")
    }

    /// A file of state/.
    pub fn state(&self, name: &str) -> PathBuf {
        self.folder.join("state").join(name)
    }
}

/// A case that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// The folder or a file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// What could not be read.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// case.toml is not as it should be.
    #[error("{path}: {message}")]
    CaseFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong, with line and column.
        message: String,
    },
}

/// Every case below a folder, in the order of their names.
///
/// # Errors
/// The folder can't be read, or a case.toml is malformed.
pub fn find(root: &Path) -> Result<Vec<Case>, CaseError> {
    let mut cases = Vec::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(folder) = pending.pop() {
        let io = |source| CaseError::Io { path: folder.clone(), source };
        if folder.join("case.toml").is_file() {
            cases.push(read(root, &folder)?);
            continue;
        }
        for entry in std::fs::read_dir(&folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.is_dir() {
                pending.push(path);
            }
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

fn read(root: &Path, folder: &Path) -> Result<Case, CaseError> {
    let path = folder.join("case.toml");
    let text = std::fs::read_to_string(&path).map_err(|source| CaseError::Io { path: path.clone(), source })?;
    let file: CaseFile =
        toml::from_str(&text).map_err(|error| CaseError::CaseFile { path: path.clone(), message: error.to_string() })?;
    let below = folder.strip_prefix(root).unwrap_or(folder).to_string_lossy().into_owned();
    let name = if below.is_empty() {
        folder.file_name().map_or_else(|| "case".to_owned(), |name| name.to_string_lossy().into_owned())
    } else {
        below
    };
    Ok(Case { name, folder: folder.to_path_buf(), file })
}
