//! The header fields of `header` and `header-file`.

/// The fields that `header` and `header-file` give.
#[derive(Default)]
pub(super) struct Fields {
    /// Each with its line end.
    pub lines: String,
    /// In place of the host of the URL.
    pub host: Option<String>,
    /// There is an `Authorization` field.
    pub authorized: bool,
}

impl Fields {
    /// Adds a line `Name: value`.
    pub(super) fn add(&mut self, line: &str) -> Result<(), String> {
        // The line itself may be a secret and is not told.
        let (name, value) = line.split_once(':').ok_or("header wants 'Name: value'")?;
        let value = value.trim();
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty()
            || !name.bytes().all(token)
            || value.bytes().any(|byte| byte < b' ' && byte != b'\t' || byte == 127)
        {
            return Err("header wants 'Name: value' without control characters".to_owned());
        }
        match name.to_ascii_lowercase().as_str() {
            "host" => self.host = Some(value.to_owned()),
            "content-length" | "transfer-encoding" | "connection" | "content-type" | "accept-encoding" | "te"
            | "expect" | "upgrade" => return Err(format!("header {name} is Podop's own")),
            lower => {
                self.authorized |= lower == "authorization";
                self.lines += &format!("{name}: {value}\r\n");
            }
        }
        Ok(())
    }
}
