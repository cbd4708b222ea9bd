/* Hash buckets of the character n-grams of tokens: `spell` of `tokenization.py`, one token after the other. */

#include <stddef.h>
#include <stdint.h>

enum { SHORTEST = 2, LONGEST = 4 }; /* characters of an n-gram */

/* MurmurHash3's 32-bit finaliser, with a constant added so that 0 does not map to 0. */
static inline uint32_t mixed(uint32_t value) {
    value = (value ^ value >> 16) * 0x85EBCA6B;
    value = (value ^ value >> 13) * 0xC2B2AE35;
    return (value ^ value >> 16) + 0x9E3779B1;
}

/* Insert a bucket into an ascending list of distinct ones, which keeps the lowest; return their number. */
static inline int64_t insert(int32_t *row, int64_t count, int64_t places, int32_t bucket) {
    int64_t at = count;
    while (at > 0 && row[at - 1] > bucket) at--;
    if (at == places || (at > 0 && row[at - 1] == bucket)) return count;
    if (count < places) count++;
    for (int64_t place = count - 1; place > at; place--) row[place] = row[place - 1];
    row[at] = bucket;
    return count;
}

/* Fill a table (tokens, places), which holds 0, with buckets from 1 to `buckets` - 1.
 * `codes` are the characters of all tokens, `lengths` (tokens,) how many each has. */
void tokens_spell(const uint32_t *codes, const int64_t *lengths, int64_t tokens, int64_t places, int64_t buckets,
                  int32_t *table) {
    for (int64_t n = 0; n < tokens; codes += lengths[n++]) {
        int64_t count = 0;
        for (int64_t first = 0; first < lengths[n]; first++) {
            uint32_t hashed = 0; /* of the n-gram one shorter, and a character */
            for (int64_t size = 1; size <= LONGEST && first + size <= lengths[n]; size++) {
                hashed = mixed(hashed ^ codes[first + size - 1]);
                if (size < SHORTEST) continue;
                const int32_t bucket = (int32_t)(1 + hashed % (uint32_t)(buckets - 1));
                count = insert(table + n * places, count, places, bucket);
            }
        }
    }
}
