/* Notes what a process asks of the network and writes to files: preloaded (LD_PRELOAD), a line for each call to the file
   that WATCH_LOG names. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void note(const char *call, const char *what)
{
    static int (*real_open)(const char *, int, ...);
    const char *log = getenv("WATCH_LOG");
    char line[4200];

    if (log == NULL)
        return;
    if (real_open == NULL)
        real_open = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    int fd = real_open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    int length = snprintf(line, sizeof line, "%s %.4000s\n", call, what);
    if (fd < 0 || write(fd, line, (size_t)length) != length)
        abort();
    close(fd);
}

static void note_domain(const char *call, int domain)
{
    char what[32];

    snprintf(what, sizeof what, "domain %d", domain);
    note(call, what);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int socket(int domain, int type, int protocol)
{
    note_domain("socket", domain);
    return REAL(socket)(domain, type, protocol);
}

int socketpair(int domain, int type, int protocol, int pair[2])
{
    note_domain("socketpair", domain);
    return REAL(socketpair)(domain, type, protocol, pair);
}

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    note_domain("connect", address->sa_family);
    return REAL(connect)(fd, address, length);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    note("getaddrinfo", node ? node : "");
    return REAL(getaddrinfo)(node, service, hints, found);
}

#define WRITES(flags) (((flags) & O_ACCMODE) != O_RDONLY || ((flags) & (O_CREAT | O_TRUNC)))
#define MODE(flags, mode)                                                                                              \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                                                                           \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode = va_arg(rest, mode_t);                                                                                   \
        va_end(rest);                                                                                                  \
    }

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        mode_t mode = 0;                                                                                               \
        MODE(flags, mode)                                                                                              \
        if (WRITES(flags))                                                                                             \
            note("open", path);                                                                                        \
        return REAL(name)(path, flags, mode);                                                                          \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                                                   \
    int name(int folder, const char *path, int flags, ...)                                                             \
    {                                                                                                                  \
        mode_t mode = 0;                                                                                               \
        MODE(flags, mode)                                                                                              \
        if (WRITES(flags))                                                                                             \
            note("open", path);                                                                                        \
        return REAL(name)(folder, path, flags, mode);                                                                  \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                                                                    \
    FILE *name(const char *path, const char *mode)                                                                     \
    {                                                                                                                  \
        if (strpbrk(mode, "wa+"))                                                                                      \
            note("open", path);                                                                                        \
        return REAL(name)(path, mode);                                                                                 \
    }
FOPEN(fopen)
FOPEN(fopen64)

int creat(const char *path, mode_t mode)
{
    note("open", path);
    return REAL(creat)(path, mode);
}

int mkdir(const char *path, mode_t mode)
{
    note("mkdir", path);
    return REAL(mkdir)(path, mode);
}

int mkdirat(int folder, const char *path, mode_t mode)
{
    note("mkdir", path);
    return REAL(mkdirat)(folder, path, mode);
}
