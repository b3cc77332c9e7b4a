// Preloaded into llmc by test_output.py: lets the LLMC_AT-th call that changes the disk be the last one of the process
// (LLMC_HOW=kill) or fail as on a full disk (LLMC_HOW=fail). Only calls on paths and files under LLMC_UNDER count.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_int calls;

/// Whether this call fails; does not return when the process is to die here.
static int strikes(const char* path) {
  const char* under = getenv("LLMC_UNDER");
  if (!under || !path || strncmp(path, under, strlen(under)) != 0) return 0;
  if (atomic_fetch_add(&calls, 1) + 1 != atoi(getenv("LLMC_AT"))) return 0;
  if (strcmp(getenv("LLMC_HOW"), "kill") == 0) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
  }
  errno = ENOSPC;
  return 1;
}

static int file_strikes(int descriptor) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  path[length < 0 ? 0 : length] = '\0';
  return strikes(path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t pwrite(int fd, const void* data, size_t size, off_t at) { return file_strikes(fd) ? -1 : REAL(pwrite)(fd, data, size, at); }
ssize_t pwrite64(int fd, const void* data, size_t size, off64_t at) { return file_strikes(fd) ? -1 : REAL(pwrite64)(fd, data, size, at); }
ssize_t write(int fd, const void* data, size_t size) { return file_strikes(fd) ? -1 : REAL(write)(fd, data, size); }
int fsync(int fd) { return file_strikes(fd) ? -1 : REAL(fsync)(fd); }
int mkdir(const char* path, mode_t mode) { return strikes(path) ? -1 : REAL(mkdir)(path, mode); }
int rename(const char* from, const char* to) { return strikes(to) ? -1 : REAL(rename)(from, to); }
int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) { return strikes(to) ? -1 : REAL(renameat2)(from_folder, from, to_folder, to, flags); }
int unlink(const char* path) { return strikes(path) ? -1 : REAL(unlink)(path); }
int rmdir(const char* path) { return strikes(path) ? -1 : REAL(rmdir)(path); }
int unlinkat(int folder, const char* path, int flags) { return (folder == AT_FDCWD ? strikes(path) : file_strikes(folder)) ? -1 : REAL(unlinkat)(folder, path, flags); }
