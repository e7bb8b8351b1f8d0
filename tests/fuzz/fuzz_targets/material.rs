//! Genuine evidence and its roots, which `run` has made before under keys of its own.

/// Reads a file of the folder `material`.
pub fn read(name: &str) -> Vec<u8> {
    let path = format!("{}/material/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}; `run` makes it"))
}
