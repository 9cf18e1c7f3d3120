/*
 * Back-off with full jitter, and the reading of Retry-After.
 *
 * Dates are read by hand: strptime() follows the application's locale, in which "Nov" may be no
 * month. The name of the weekday is skipped, not checked: it adds nothing.
 *
 * Not here: any clock. The caller waits.
 */
#include "destinations/backoff.h"

#include <stdbool.h>
#include <string.h>

#define NS_PER_S INT64_C(1000000000)

void pom__backoff_reset(pom__backoff_t *backoff) {
    backoff->failures = 0;
}

int64_t pom__backoff_next(pom__backoff_t *backoff, uint64_t random) {
    int64_t ceiling = POM__BACKOFF_CAP_NS;
    if (backoff->failures < 6) { /* 2^6 s is beyond the cap */
        ceiling = POM__BACKOFF_FIRST_NS << backoff->failures;
    }
    if (backoff->failures < UINT32_MAX) {
        backoff->failures++;
    }
    uint64_t span = (uint64_t)(ceiling - POM__BACKOFF_FLOOR_NS);
    /* The remainder favours small values by less than one in 10^8. */
    return POM__BACKOFF_FLOOR_NS + (int64_t)(random % (span + 1));
}

/* ---- dates ---- */

typedef struct cursor_s {
    const char *at, *end;
} cursor_t;

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool take(cursor_t *c, char wanted) {
    if (c->at < c->end && *c->at == wanted) {
        c->at++;
        return true;
    }
    return false;
}

/* `least` to `most` digits; -1 when there are fewer. */
static int64_t number(cursor_t *c, int least, int most) {
    int64_t value = 0;
    int digits = 0;
    while (digits < most && c->at < c->end && is_digit(*c->at)) {
        value = value * 10 + (*c->at++ - '0');
        digits++;
    }
    return digits >= least ? value : -1;
}

/* 1 to 12; -1. */
static int64_t month(cursor_t *c) {
    static const char names[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    if (c->end - c->at < 3) {
        return -1;
    }
    for (int i = 0; i < 12; i++) {
        if (memcmp(names + (size_t)i * 3, c->at, 3) == 0) {
            c->at += 3;
            return i + 1;
        }
    }
    return -1;
}

/* Days since 1970-01-01 in the Gregorian calendar. Years begin in March here, so that the day
 * that some years have more is the last one. */
static int64_t days_since_epoch(int64_t year, int64_t mon, int64_t day) {
    year -= mon <= 2 ? 1 : 0;
    int64_t era = year / 400;
    int64_t year_of_era = year - era * 400;
    int64_t day_of_year = (153 * (mon + (mon > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return era * 146097 + day_of_era - 719468;
}

/* "08:49:37"; seconds of the day or -1. */
static int64_t clock_time(cursor_t *c) {
    int64_t h = number(c, 2, 2);
    bool first = take(c, ':');
    int64_t m = number(c, 2, 2);
    bool second = take(c, ':');
    int64_t s = number(c, 2, 2);
    if (!first || !second || h < 0 || h > 23 || m < 0 || m > 59 || s < 0 || s > 60) {
        return -1;
    }
    return h * 3600 + m * 60 + s;
}

/*
 *     Sun, 06 Nov 1994 08:49:37 GMT      IMF-fixdate
 *     Sunday, 06-Nov-94 08:49:37 GMT     RFC 850
 *     Sun Nov  6 08:49:37 1994           asctime
 */
static bool parse_date(const char *text, size_t size, int64_t *seconds) {
    cursor_t c = {text, text + size};
    while (c.at < c.end && ((*c.at >= 'A' && *c.at <= 'Z') || (*c.at >= 'a' && *c.at <= 'z'))) {
        c.at++;
    }
    int64_t year, mon, day, time;
    bool zone = true;
    if (take(&c, ',')) {
        (void)take(&c, ' '); /* some leave it out */
        day = number(&c, 2, 2);
        char separator = c.at < c.end ? *c.at : '\0';
        if (separator != ' ' && separator != '-') {
            return false;
        }
        c.at++;
        mon = month(&c);
        if (!take(&c, separator)) {
            return false;
        }
        const char *before = c.at;
        year = number(&c, 2, 4);
        if (c.at - before == 2) {
            year += year < 70 ? 2000 : 1900;
        }
        if (!take(&c, ' ')) {
            return false;
        }
        time = clock_time(&c);
        zone = c.end - c.at == 4 && memcmp(c.at, " GMT", 4) == 0;
    } else {
        if (!take(&c, ' ')) {
            return false;
        }
        mon = month(&c);
        if (!take(&c, ' ')) {
            return false;
        }
        (void)take(&c, ' '); /* a day of one digit is padded */
        day = number(&c, 1, 2);
        if (!take(&c, ' ')) {
            return false;
        }
        time = clock_time(&c);
        if (!take(&c, ' ')) {
            return false;
        }
        year = number(&c, 4, 4);
        zone = c.at == c.end;
    }
    if (!zone || year < 1970 || mon < 1 || day < 1 || day > 31 || time < 0) {
        return false;
    }
    *seconds = days_since_epoch(year, mon, day) * 86400 + time;
    return true;
}

int64_t pom__retry_after_ns(const char *text, size_t size, int64_t wall_now_ns) {
    const int64_t cap = POM__RETRY_AFTER_CAP_NS;
    while (size > 0 && (text[0] == ' ' || text[0] == '\t')) {
        text++;
        size--;
    }
    while (size > 0 && (text[size - 1] == ' ' || text[size - 1] == '\t')) {
        size--;
    }
    if (size == 0) {
        return -1;
    }
    bool digits = true;
    int64_t seconds = 0;
    for (size_t i = 0; i < size && digits; i++) {
        digits = is_digit(text[i]);
        if (digits && seconds <= cap / NS_PER_S) {
            seconds = seconds * 10 + (text[i] - '0');
        }
    }
    if (digits) {
        return seconds > cap / NS_PER_S ? cap : seconds * NS_PER_S;
    }
    if (!parse_date(text, size, &seconds)) {
        return -1;
    }
    int64_t now_s = wall_now_ns / NS_PER_S;
    if (seconds <= now_s) {
        return 0;
    }
    /* Compared in seconds first: a date in the year 9999 does not fit into nanoseconds. */
    return seconds - now_s > cap / NS_PER_S ? cap : seconds * NS_PER_S - wall_now_ns;
}
