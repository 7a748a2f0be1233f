//! Tables: a table either answers a question itself, or plans the request that does and interprets the response.

#[cfg(test)]
mod alone;
mod file;
mod interface;
mod keys;
mod mx;
mod program;
mod select;
mod settings;
mod setup;
mod stamp;
mod tls_options;
mod url;

pub use interface::{OnFault, Plan, Question, ResponseError, ResponseOf, Table, TableEntry, Written};
pub use keys::KeyRules;
pub use settings::{Caching, SettingError, Settings};
pub use setup::{Setup, TableSpec};

/// Opens a table of one type.
pub type Constructor = fn(TableSpec<'_>, &mut Setup<'_>) -> Result<TableEntry, SettingError>;

/// The table types of `--type`. A new type is a new file and one line here.
pub const TYPES: &[(&str, Constructor)] =
    &[("file", file::open), ("mx", mx::open), ("program", program::open), ("url", url::open)];

/// Opens a table of the type `kind`, which is one of [`TYPES`].
pub fn open(kind: &str, spec: TableSpec<'_>, setup: &mut Setup<'_>) -> Result<TableEntry, SettingError> {
    match TYPES.iter().find(|(name, _)| *name == kind) {
        Some((_, open)) => open(spec, setup),
        None => {
            let known: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
            let why = format!("'{kind}' is unknown, it is one of: {}", known.join(", "));
            Err(SettingError { flag: "--type", why })
        }
    }
}
