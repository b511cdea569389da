/* Preloaded into a broker by test_sync.py: stands before fsync and fdatasync as a gate that the test opens and shuts.
 *
 * The file named by HEADRACE_TEST_SYNC_GATE says how: "hold" keeps callers waiting until it says something else, "fail" gives
 * them EIO, anything else or no file lets them pass.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int gated(const char *name, int descriptor) {
    const char *path = getenv("HEADRACE_TEST_SYNC_GATE");
    for (;;) {
        char state[5] = "";
        int gate = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        if (gate >= 0) {
            if (read(gate, state, 4) < 0) state[0] = 0;
            close(gate);
        }
        if (strcmp(state, "fail") == 0) {
            errno = EIO;
            return -1;
        }
        if (strcmp(state, "hold") != 0) break;
        usleep(1000);
    }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return real(descriptor);
}

int fsync(int descriptor) { return gated("fsync", descriptor); }
int fdatasync(int descriptor) { return gated("fdatasync", descriptor); }
