//! `podop help`: prints the manual.

use super::exit::print;
use crate::config::{ConfigError, EX_USAGE};
use crate::manual::{CHAPTERS, Chapter};

/// Prints a chapter of the manual, or the list of chapters.
pub fn manual(name: Option<&str>) -> Result<u8, ConfigError> {
    let Some(name) = name else {
        let row = |chapter: &Chapter| format!("  podop help {:<14} {}\n", chapter.name, chapter.summary);
        let rows: String = CHAPTERS.iter().map(row).collect();
        return Ok(print(format!("The manual has these chapters:\n\n{rows}").as_bytes()));
    };
    match CHAPTERS.iter().find(|chapter| chapter.name == name) {
        Some(chapter) => Ok(print(chapter.text.as_bytes())),
        None => {
            let names: Vec<&str> = CHAPTERS.iter().map(|chapter| chapter.name).collect();
            let line = format!("help: there is no chapter '{name}', only: {}", names.join(", "));
            Err(ConfigError { code: EX_USAGE, line })
        }
    }
}
