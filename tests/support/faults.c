/* Preloaded into a process: kills it, or fills the disk, at its n-th file event below a folder.

An event is the opening of a file for writing, a write, a truncation, a flush, a rename, a removal, a new folder or link. Nothing happens
until `faults_arm` is called. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static long at, seen;
static int full_disk, armed;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* at_event: 1 is the first event; 0 counts only. disk: 0 kills, 1 answers ENOSPC from that event on, except to removals. */
void faults_arm(const char *folder, long at_event, int disk) {
    strncpy(root, folder, sizeof root - 1);
    at = at_event, seen = 0, full_disk = disk, armed = 1;
}

long faults_seen(void) { return seen; }

static int below(int folder, const char *path) {
    char whole[PATH_MAX * 2], link[64];
    if (path && path[0] == '/') {
        snprintf(whole, sizeof whole, "%s", path);
    } else {
        ssize_t size;
        if (folder == AT_FDCWD) {
            if (!getcwd(whole, PATH_MAX)) return 0;
            size = strlen(whole);
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            size = readlink(link, whole, PATH_MAX);
            if (size < 0) return 0;
        }
        if (path) snprintf(whole + size, sizeof whole - size, "/%s", path);
        else whole[size] = 0;
    }
    return strncmp(whole, root, strlen(root)) == 0;
}

/* Counts an event; returns 1 where it must fail with ENOSPC. */
static int event(int folder, const char *path, int takes_space) {
    int fails = 0;
    if (!armed || !below(folder, path)) return 0;
    pthread_mutex_lock(&lock);
    seen++;
    if (at && seen >= at) {
        if (!full_disk) kill(getpid(), SIGKILL), pause();
        fails = takes_space;
    }
    pthread_mutex_unlock(&lock);
    if (fails) errno = ENOSPC;
    return fails;
}

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, #name, const char *, int, ...); \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        return WRITES(flags) && event(AT_FDCWD, path, 1) ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(int, #name, int, const char *, int, ...); \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        return WRITES(flags) && event(folder, path, 1) ? -1 : real(folder, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name) \
    FILE *name(const char *path, const char *mode) { \
        REAL(FILE *, #name, const char *, const char *); \
        return strpbrk(mode, "wa+") && event(AT_FDCWD, path, 1) ? NULL : real(path, mode); \
    }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int file, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return event(file, NULL, 1) ? -1 : real(file, data, size);
}
ssize_t pwrite(int file, const void *data, size_t size, off_t offset) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    return event(file, NULL, 1) ? -1 : real(file, data, size, offset);
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    return event(file, NULL, 1) ? -1 : real(file, data, size, offset);
}
ssize_t writev(int file, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    return event(file, NULL, 1) ? -1 : real(file, parts, count);
}
int ftruncate(int file, off_t size) {
    REAL(int, "ftruncate", int, off_t);
    return event(file, NULL, 0) ? -1 : real(file, size);
}
int ftruncate64(int file, off64_t size) {
    REAL(int, "ftruncate64", int, off64_t);
    return event(file, NULL, 0) ? -1 : real(file, size);
}
int fsync(int file) {
    REAL(int, "fsync", int);
    return event(file, NULL, 1) ? -1 : real(file);
}
int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return event(AT_FDCWD, to, 1) ? -1 : real(from, to);
}
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    return event(to_folder, to, 1) ? -1 : real(from_folder, from, to_folder, to);
}
int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    REAL(int, "renameat2", int, const char *, int, const char *, unsigned);
    return event(to_folder, to, 1) ? -1 : real(from_folder, from, to_folder, to, flags);
}
int link(const char *from, const char *to) {
    REAL(int, "link", const char *, const char *);
    return event(AT_FDCWD, to, 1) ? -1 : real(from, to);
}
int symlink(const char *from, const char *to) {
    REAL(int, "symlink", const char *, const char *);
    return event(AT_FDCWD, to, 1) ? -1 : real(from, to);
}
int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    return event(AT_FDCWD, path, 1) ? -1 : real(path, mode);
}
int mkdirat(int folder, const char *path, mode_t mode) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    return event(folder, path, 1) ? -1 : real(folder, path, mode);
}
int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    return event(AT_FDCWD, path, 0) ? -1 : real(path);
}
int unlinkat(int folder, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    return event(folder, path, 0) ? -1 : real(folder, path, flags);
}
int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    return event(AT_FDCWD, path, 0) ? -1 : real(path);
}
int remove(const char *path) {
    REAL(int, "remove", const char *);
    return event(AT_FDCWD, path, 0) ? -1 : real(path);
}
