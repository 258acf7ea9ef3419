// Before anything is painted: the theme that was chosen here. Without a choice the system's counts. No module, since
// those wait for the page.
{
    let chosen = null;
    try {
        chosen = localStorage.getItem("openexec-theme");
    } catch {
        // Storage is forbidden: the system's theme, then.
    }
    if (chosen === "light" || chosen === "dark") {
        document.documentElement.dataset.theme = chosen;
    }
}
