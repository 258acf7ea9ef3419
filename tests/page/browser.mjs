// Drives the status page in Chromium. tests/it/page.rs starts the servers, makes what there is to see, and runs this.

await import("./session.mjs");
await import("./overview.mjs");
await import("./executions.mjs");
await import("./hostile.mjs");
await import("./access.mjs");
await import("./pictures.mjs");
