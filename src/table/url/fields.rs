//! The header fields of the settings `header` and `header-file`.

/// Header fields that are added to each request.
#[derive(Clone, Default)]
pub(super) struct Fields {
    /// Field lines, each with its CR LF.
    pub lines: String,
    /// The value of `Host`, if it is not that of the URL.
    pub host: Option<String>,
    /// Whether there is an `Authorization` field.
    pub authorized: bool,
}

impl Fields {
    /// Adds all of `other`, whose `Host` takes precedence.
    pub(super) fn extend(&mut self, other: &Self) {
        self.lines += &other.lines;
        self.host = other.host.clone().or(self.host.take());
        self.authorized |= other.authorized;
    }

    /// Adds a field line `Name: value`.
    ///
    /// # Errors
    /// The line is malformed, or the field is one that Podop sets itself.
    pub(super) fn add(&mut self, line: &str) -> Result<(), String> {
        // The line may hold a secret, so that errors do not repeat it.
        let (name, value) = line.split_once(':').ok_or("header expects 'Name: value'")?;
        let value = value.trim();
        // A token (RFC 9110, section 5.6.2). Control characters in the value would allow a second field or request.
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty()
            || !name.bytes().all(token)
            || value.bytes().any(|byte| byte < b' ' && byte != b'\t' || byte == 127)
        {
            return Err("header expects 'Name: value' without control characters".to_owned());
        }
        match name.to_ascii_lowercase().as_str() {
            "host" => self.host = Some(value.to_owned()),
            // The framing, and anything that would allow a response which the decoder does not understand.
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
