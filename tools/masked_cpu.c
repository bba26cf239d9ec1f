/* Hides instruction sets from a process: its CPUID instructions answer without them, and so does /proc/cpuinfo.
 *
 * Linux can make CPUID fault (arch_prctl(ARCH_CPUID, 0), on processors with "cpuid_fault"). The handler below executes
 * the instruction, clears the hidden bits and goes on behind it. What a program does not ask for, it can still execute:
 * this shows what libraries choose on a smaller processor, not that they never leave it. See masked_cpu.py.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { ARCH_CPUID = 0x1012 };

static struct sigaction wanted; /* what the program wants done at a fault of its own */
static unsigned hidden_7_ebx, hidden_7_ecx, hidden_7_edx;
static int (*real_sigaction)(int, const struct sigaction *, struct sigaction *);

static void hide(unsigned leaf, unsigned subleaf, unsigned *registers) {
    if (leaf == 7 && subleaf == 0) {
        registers[1] &= ~hidden_7_ebx;
        registers[2] &= ~hidden_7_ecx;
        registers[3] &= ~hidden_7_edx;
    } else if (leaf == 7 && subleaf == 1) { /* AVX-VNNI, AVX512-BF16 and what came later */
        registers[0] &= ~(1u << 4 | 1u << 5 | 1u << 21 | 1u << 22 | 1u << 23);
        registers[3] &= ~(1u << 4 | 1u << 5 | 1u << 10 | 1u << 19);
    }
}

static void at_fault(int number, siginfo_t *info, void *context) {
    greg_t *saved = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *instruction = (const unsigned char *)saved[REG_RIP];
    if (info->si_code == SI_KERNEL && instruction[0] == 0x0f && instruction[1] == 0xa2) {
        unsigned leaf = saved[REG_RAX], subleaf = saved[REG_RCX], registers[4];
        syscall(SYS_arch_prctl, ARCH_CPUID, 1);
        __asm__ volatile("cpuid" : "=a"(registers[0]), "=b"(registers[1]), "=c"(registers[2]), "=d"(registers[3])
                         : "a"(leaf), "c"(subleaf));
        syscall(SYS_arch_prctl, ARCH_CPUID, 0);
        hide(leaf, subleaf, registers);
        saved[REG_RAX] = registers[0], saved[REG_RBX] = registers[1];
        saved[REG_RCX] = registers[2], saved[REG_RDX] = registers[3];
        saved[REG_RIP] += 2;
    } else if (wanted.sa_flags & SA_SIGINFO) {
        wanted.sa_sigaction(number, info, context);
    } else if (wanted.sa_handler != SIG_DFL && wanted.sa_handler != SIG_IGN) {
        wanted.sa_handler(number);
    } else {
        real_sigaction(number, &(struct sigaction){.sa_handler = SIG_DFL}, NULL); /* the fault comes again, and ends it */
    }
}

static void install(void) {
    struct sigaction mine = wanted;
    mine.sa_sigaction = at_fault;
    mine.sa_flags = (wanted.sa_flags | SA_SIGINFO | SA_RESTART) & ~(int)SA_RESETHAND;
    real_sigaction(SIGSEGV, &mine, NULL);
}

int sigaction(int number, const struct sigaction *new, struct sigaction *old) {
    if (!real_sigaction)
        *(void **)&real_sigaction = dlsym(RTLD_NEXT, "sigaction");
    if (number != SIGSEGV)
        return real_sigaction(number, new, old);
    struct sigaction before = wanted;
    if (new) {
        wanted = *new;
        install();
    }
    if (old)
        *old = before;
    return 0;
}

sighandler_t signal(int number, sighandler_t handler) {
    struct sigaction old, new = {.sa_handler = handler, .sa_flags = SA_RESTART};
    return sigaction(number, &new, &old) ? SIG_ERR : old.sa_handler;
}

/* Blocked, a fault would end the process at once. */
int pthread_sigmask(int how, const sigset_t *set, sigset_t *old) {
    static int (*real)(int, const sigset_t *, sigset_t *);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pthread_sigmask");
    if (!set || how == SIG_UNBLOCK)
        return real(how, set, old);
    sigset_t without = *set;
    sigdelset(&without, SIGSEGV);
    return real(how, &without, old);
}

int sigprocmask(int how, const sigset_t *set, sigset_t *old) {
    int error = pthread_sigmask(how, set, old);
    if (error)
        errno = error;
    return error ? -1 : 0;
}

static const char *instead(const char *path) {
    const char *masked = getenv("MASKED_CPU_INFO");
    return path && masked && !strcmp(path, "/proc/cpuinfo") ? masked : path;
}

#define OPEN(name)                                                                \
    int name(const char *path, int flags, ...) {                                  \
        static int (*real)(const char *, int, ...);                               \
        if (!real)                                                                \
            *(void **)&real = dlsym(RTLD_NEXT, #name);                            \
        va_list rest;                                                             \
        va_start(rest, flags);                                                    \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                             \
        return real(instead(path), flags, mode);                                  \
    }
#define FOPEN(name)                                      \
    FILE *name(const char *path, const char *mode) {     \
        static FILE *(*real)(const char *, const char *); \
        if (!real)                                       \
            *(void **)&real = dlsym(RTLD_NEXT, #name);   \
        return real(instead(path), mode);                \
    }
OPEN(open)
OPEN(open64)
FOPEN(fopen)
FOPEN(fopen64)

__attribute__((constructor)) static void begin(void) {
    const char *bits = getenv("MASKED_CPU_BITS");
    if (!bits || sscanf(bits, "%x,%x,%x", &hidden_7_ebx, &hidden_7_ecx, &hidden_7_edx) != 3)
        return;
    if (!real_sigaction)
        *(void **)&real_sigaction = dlsym(RTLD_NEXT, "sigaction");
    real_sigaction(SIGSEGV, NULL, &wanted);
    install();
    if (syscall(SYS_arch_prctl, ARCH_CPUID, 0))
        fprintf(stderr, "masked_cpu: this processor or kernel cannot make CPUID fault\n"), _exit(125);
}
