/* Makes a directory's file system fail on demand: preloaded into the program under test.
 *
 * While the file named by FAIL_FILE holds a number, every call that would change or read something below FAIL_DIR fails
 * with it as errno: 5 is EIO, 30 EROFS (which spares reads), 28 ENOSPC (the same). Everything else goes through. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int failure(void) {
    const char *name = getenv("FAIL_FILE");
    if (!name) return 0;
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    ssize_t (*get)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
    int keep = errno, fd = real(name, O_RDONLY | O_CLOEXEC);
    char text[8] = {0};
    if (fd >= 0) {
        if (get(fd, text, sizeof text - 1) < 0) text[0] = 0;
        close(fd);
    }
    errno = keep;
    return atoi(text);
}

static int is_below(const char *path) {
    const char *dir = getenv("FAIL_DIR");
    return dir && path && strncmp(path, dir, strlen(dir)) == 0;
}

static int is_open_below(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return is_below(path);
}

/* The errno to fail with, or 0. */
static int writes(int below) { return below ? failure() : 0; }
static int reads(int below) { int number = writes(below); return number == EIO ? number : 0; }

#define FAIL(number) do { int failed = (number); if (failed) { errno = failed; return -1; } } while (0)
#define REAL(result, name, ...) static result (*real)(__VA_ARGS__); if (!real) real = dlsym(RTLD_NEXT, name)

static int opening(const char *path, int flags) {
    int below = is_below(path);
    return (flags & (O_WRONLY | O_RDWR | O_CREAT)) ? writes(below) : reads(below);
}

int open64(const char *path, int flags, ...) {
    va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more);
    REAL(int, "open64", const char *, int, ...);
    FAIL(opening(path, flags));
    return real(path, flags, mode);
}
int open(const char *path, int flags, ...) {
    va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more);
    REAL(int, "open", const char *, int, ...);
    FAIL(opening(path, flags));
    return real(path, flags, mode);
}
ssize_t write(int fd, const void *data, size_t length) {
    REAL(ssize_t, "write", int, const void *, size_t);
    FAIL(writes(is_open_below(fd)));
    return real(fd, data, length);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    FAIL(writes(is_open_below(fd)));
    return real(fd, data, length, at);
}
ssize_t pread64(int fd, void *data, size_t length, off64_t at) {
    REAL(ssize_t, "pread64", int, void *, size_t, off64_t);
    FAIL(reads(is_open_below(fd)));
    return real(fd, data, length, at);
}
ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t at, int flags) {
    REAL(ssize_t, "preadv2", int, const struct iovec *, int, off_t, int);
    FAIL(reads(is_open_below(fd)));
    return real(fd, parts, count, at, flags);
}
int fsync(int fd) { REAL(int, "fsync", int); FAIL(writes(is_open_below(fd))); return real(fd); }
int fdatasync(int fd) { REAL(int, "fdatasync", int); FAIL(writes(is_open_below(fd))); return real(fd); }
int unlink(const char *path) { REAL(int, "unlink", const char *); FAIL(writes(is_below(path))); return real(path); }
int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    FAIL(writes(is_below(from) || is_below(to)));
    return real(from, to);
}
