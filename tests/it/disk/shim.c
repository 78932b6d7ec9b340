/* Stands before the C library's syncs of a process under test (LD_PRELOAD).
 *
 * SHIM_UNREPAIR=1: a sync of sled's file is sync_file_range(2) again, as sled ships.
 * SHIM_FAIL=PART:N: the N-th sync of a file whose path contains PART fails with EIO, once.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WAIT_WRITE_WAIT 7

static atomic_long synced;

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

static int fails(const char *path) {
    const char *plan = getenv("SHIM_FAIL");
    if (!plan) return 0;
    const char *colon = strrchr(plan, ':');
    char part[PATH_MAX];
    snprintf(part, sizeof part, "%.*s", (int)(colon - plan), plan);
    return strstr(path, part) && atomic_fetch_add(&synced, 1) + 1 == atol(colon + 1);
}

static int sync_file(int fd, long call) {
    char path[PATH_MAX];
    if (path_of(fd, path)) {
        if (fails(path)) {
            errno = EIO;
            return -1;
        }
        size_t length = strlen(path);
        if (call == SYS_fdatasync && getenv("SHIM_UNREPAIR") && length > 9 && !strcmp(path + length - 9, "/state/db"))
            return syscall(SYS_sync_file_range, fd, 0L, 0L, WAIT_WRITE_WAIT);
    }
    return syscall(call, fd);
}

int fdatasync(int fd) { return sync_file(fd, SYS_fdatasync); }
int fsync(int fd) { return sync_file(fd, SYS_fsync); }
