//! Files that commands read.

use std::io::Read;
use std::path::Path;

/// The file's bytes; `-` is standard input.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).map(drop)
    } else {
        std::fs::read(path).map(|read| bytes = read)
    };
    read.map(|()| bytes).map_err(|e| format!("{}: {e}", path.display()))
}
