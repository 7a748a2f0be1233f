//! The setting `select`.

use super::interface::ResponseError;
use crate::value::{SelectError, Value};

/// The part of a value that the setting names, if there is one. The response had this status.
pub(super) fn select<'a>(value: Value<'a>, pointer: Option<&str>, status: u16) -> Result<Value<'a>, ResponseError> {
    let Some(pointer) = pointer else { return Ok(value) };
    value.select(pointer).map_err(|error| match error {
        SelectError::Missing => ResponseError::NotSelected(pointer.to_owned()),
        SelectError::Unreadable => ResponseError::NotJson(status),
    })
}
