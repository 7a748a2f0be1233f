//! A table without a program around it, for the tests of the table types.

use super::interface::TableEntry;
use super::settings::{SettingError, Settings};
use super::setup::{Setup, TableSpec};
use crate::backend::Backends;
use crate::config::Setting;
use crate::io::Turn;
use crate::program::Programs;
use std::time::Instant;

/// Opens a table named `t`.
pub(super) fn open_alone(
    open: fn(TableSpec<'_>, &mut Setup<'_>) -> Result<TableEntry, SettingError>,
    param: &str,
    settings: &[(&str, &str)],
) -> Result<TableEntry, SettingError> {
    let setting = |(key, value): &(&str, &str)| Setting { key: (*key).into(), value: (*value).into(), general: false };
    let settings: Vec<Setting> = settings.iter().map(setting).collect();
    let spec = TableSpec { name: "t", param, settings: Settings::new(&settings), decides: false };
    let (mut backends, mut programs) = (Backends::default(), Programs::default());
    let mut turn = Turn::new(Instant::now());
    open(spec, &mut Setup::new(&mut backends, &mut programs, &mut turn))
}
