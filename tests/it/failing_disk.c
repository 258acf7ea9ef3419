/* Preloaded: a disk that takes no write, or cannot say that it keeps it, as long as the file is there that WRITES_FAIL
   or SYNCS_FAIL names. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fails(const char *name) {
    const char *path = getenv(name);
    if (!path || access(path, F_OK) != 0) return 0;
    errno = EIO;
    return 1;
}

static int is_file(int fd) {
    struct stat status;
    return fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

int fdatasync(int fd) { return fails("SYNCS_FAIL") ? -1 : (int)syscall(SYS_fdatasync, fd); }

int fsync(int fd) { return fails("SYNCS_FAIL") ? -1 : (int)syscall(SYS_fsync, fd); }

ssize_t write(int fd, const void *bytes, size_t count) {
    return is_file(fd) && fails("WRITES_FAIL") ? -1 : syscall(SYS_write, fd, bytes, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    return is_file(fd) && fails("WRITES_FAIL") ? -1 : syscall(SYS_pwrite64, fd, bytes, count, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) { return pwrite64(fd, bytes, count, at); }
