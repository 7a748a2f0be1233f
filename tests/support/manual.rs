//! The files that the manual shows, by name.

/// Samples of the manual, and what is installed beside the program.
pub const FOLDERS: [&str; 3] = ["src/manual/files", "src/package", "src/package/mailu"];

/// The text of a file that the manual shows.
pub fn sample(name: &str) -> String {
    FOLDERS.iter().find_map(|folder| std::fs::read_to_string(format!("{folder}/{name}")).ok()).expect(name)
}
