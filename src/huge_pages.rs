//! The system's huge pages, which the allocator asks for: with one for each small thing a server takes more than twice the
//! memory that it needs.

use std::sync::OnceLock;

use rustix::thread::{disable_transparent_huge_pages, transparent_huge_pages_are_disabled};

static MIGHT: OnceLock<bool> = OnceLock::new();

/// Refuses them. Where that cannot be said (by an old kernel, or behind a filter), they only take more memory.
pub fn refuse() {
    MIGHT.get_or_init(|| transparent_huge_pages_are_disabled() == Ok(false));
    let _ = disable_transparent_huge_pages(true);
}

/// Takes that back, and not what somebody else had refused before.
pub fn allow_again() {
    if MIGHT.get() == Some(&true) {
        let _ = disable_transparent_huge_pages(false);
    }
}
