/* Runs the hashing of n-grams on the arrays of a file, each in a block of its own size, so that AddressSanitizer
 * finds any access beyond it: spelling_main INPUT OUTPUT, as lstm_main. */

#include "spelling.c"
#include <stdio.h>
#include <stdlib.h>

static FILE *input;

static void *array(int64_t count, size_t size) {
    void *found = malloc((size_t)count * size);
    if (!found || fread(found, size, (size_t)count, input) != (size_t)count) exit(3);
    return found;
}

int main(int count, char **paths) {
    FILE *output;
    if (count != 3 || !(input = fopen(paths[1], "rb")) || !(output = fopen(paths[2], "wb"))) return 3;
    const int64_t *sizes = array(4, sizeof(int64_t));
    const int64_t X = sizes[0], K = sizes[1];
    const int64_t *lengths = array(X, sizeof(int64_t));
    const uint32_t *codes = array(sizes[3], sizeof(uint32_t));
    int32_t *table = calloc((size_t)(X * K), sizeof(int32_t));
    if (!table) return 3;
    tokens_spell(codes, lengths, X, K, sizes[2], table);
    fwrite(table, sizeof(int32_t), (size_t)(X * K), output);
    return fclose(output);
}
