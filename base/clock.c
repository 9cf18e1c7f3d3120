/*
 * Clocks, and the text form of a moment.
 *
 * clock_gettime cannot fail for the fixed clocks used here (Linux, valid pointer), so those have no
 * error path. The text form is computed with integers alone: strftime and gmtime_r look at the time
 * zone and the locale, which belong to the application, and take a lock inside libc that a thread
 * may hold across a fork. Any thread.
 */
#include "base/clock.h"

#include <sys/types.h>
#include <time.h>

/* PID_MAX_LIMIT of the kernel on 64 bits, the ceiling of /proc/sys/kernel/pid_max. */
#define TID_LARGEST (4 * 1024 * 1024)

static int64_t read_clock(clockid_t clock) {
    struct timespec ts = {0, 0};
    (void)clock_gettime(clock, &ts); /* Cannot fail: see the head of this file. */
    return (int64_t)ts.tv_sec * POM_NS_PER_S + (int64_t)ts.tv_nsec;
}

int64_t pom_now_ns(void) {
    return read_clock(CLOCK_MONOTONIC);
}

int64_t pom_wall_ns(void) {
    return read_clock(CLOCK_REALTIME);
}

int64_t pom_thread_cpu_ns(void) {
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

int64_t pom_process_cpu_ns(void) {
    return read_clock(CLOCK_PROCESS_CPUTIME_ID);
}

bool pom_tid_cpu_ns(int32_t tid, int64_t *cpu_ns) {
    /* The kernel takes 0 for the calling thread, and the shift below makes other clocks out of
     * large numbers: wrong answers, not failures. */
    if (tid <= 0 || tid > TID_LARGEST) {
        return false;
    }
    /* The kernel's own encoding (include/linux/posix-timers.h): 2 = scheduler clock, 4 = per
     * thread. Shifted as unsigned, since the complement is negative. */
    clockid_t clock = (clockid_t)((~(uint32_t)tid << 3) | 6U);
    struct timespec ts;
    if (clock_gettime(clock, &ts) != 0) {
        return false; /* EINVAL: no such thread in this process. */
    }
    *cpu_ns = (int64_t)ts.tv_sec * POM_NS_PER_S + (int64_t)ts.tv_nsec;
    return true;
}

struct timespec pom_timespec(int64_t ns) {
    int64_t at_ns = ns > 0 ? ns : 0;
    return (struct timespec){
        .tv_sec = (time_t)(at_ns / POM_NS_PER_S),
        .tv_nsec = (long)(at_ns % POM_NS_PER_S),
    };
}

static void put_pair(char *out, uint32_t value) {
    out[0] = (char)('0' + value / 10);
    out[1] = (char)('0' + value % 10);
}

void pom_format_moment(int64_t wall_ns, char out[28]) {
    /* Rounded towards the past, so that moments before 1970 come out right too. */
    const int64_t ns_per_day = INT64_C(86400) * POM_NS_PER_S;
    int64_t days = wall_ns / ns_per_day;
    int64_t rest = wall_ns % ns_per_day;
    if (rest < 0) {
        rest += ns_per_day;
        days--;
    }
    uint32_t second = (uint32_t)(rest / POM_NS_PER_S);
    uint32_t micro = (uint32_t)(rest % POM_NS_PER_S / POM_NS_PER_US);

    /* Days to a civil date (H. Hinnant, chrono-compatible low-level date algorithms): years start
     * in March, so that the leap day is the last one; an era is 400 years, 146097 days. An int64 of
     * nanoseconds reaches from 1677 to 2262: `days` is small and the era is never negative. */
    uint32_t z = (uint32_t)(days + 719468); /* days since 0000-03-01 */
    uint32_t era = z / 146097;
    uint32_t day_of_era = z % 146097;
    uint32_t year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    uint32_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    uint32_t month_from_march = (5 * day_of_year + 2) / 153;
    uint32_t day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    uint32_t month = month_from_march < 10 ? month_from_march + 3 : month_from_march - 9;
    uint32_t year = era * 400 + year_of_era + (month <= 2 ? 1 : 0);

    put_pair(out, year / 100);
    put_pair(out + 2, year % 100);
    out[4] = '-';
    put_pair(out + 5, month);
    out[7] = '-';
    put_pair(out + 8, day);
    out[10] = 'T';
    put_pair(out + 11, second / 3600);
    out[13] = ':';
    put_pair(out + 14, second / 60 % 60);
    out[16] = ':';
    put_pair(out + 17, second % 60);
    out[19] = '.';
    put_pair(out + 20, micro / 10000);
    put_pair(out + 22, micro / 100 % 100);
    put_pair(out + 24, micro % 100);
    out[26] = 'Z';
    out[27] = '\0';
}
