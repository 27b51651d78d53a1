/* In libFuzzer's place: runs a target once on each input of some folders, and tells which places of the code were reached. A line
 * for each: its address in the program, and 1 or 0. */

#define _GNU_SOURCE
#include <dirent.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv);

/* The counters and places of each part of the program, in the order in which the compiler's own code tells them. */
#define MOST_PARTS 4096
static struct { uint8_t *from, *to; } counters[MOST_PARTS];
static const uintptr_t *places[MOST_PARTS];
static size_t parts, located;

void __sanitizer_cov_8bit_counters_init(uint8_t *from, uint8_t *to) {
    if (from < to && parts < MOST_PARTS) {
        counters[parts].from = from;
        counters[parts++].to = to;
    }
}

void __sanitizer_cov_pcs_init(const uintptr_t *from, const uintptr_t *to) {
    if (from < to && located < MOST_PARTS)
        places[located++] = from;
}

void __sanitizer_cov_trace_cmp1(uint8_t a, uint8_t b) { (void)a, (void)b; }
void __sanitizer_cov_trace_cmp2(uint16_t a, uint16_t b) { (void)a, (void)b; }
void __sanitizer_cov_trace_cmp4(uint32_t a, uint32_t b) { (void)a, (void)b; }
void __sanitizer_cov_trace_cmp8(uint64_t a, uint64_t b) { (void)a, (void)b; }
void __sanitizer_cov_trace_const_cmp1(uint8_t a, uint8_t b) { (void)a, (void)b; }
void __sanitizer_cov_trace_const_cmp2(uint16_t a, uint16_t b) { (void)a, (void)b; }
void __sanitizer_cov_trace_const_cmp4(uint32_t a, uint32_t b) { (void)a, (void)b; }
void __sanitizer_cov_trace_const_cmp8(uint64_t a, uint64_t b) { (void)a, (void)b; }
void __sanitizer_cov_trace_switch(uint64_t value, uint64_t *cases) { (void)value, (void)cases; }

static void run(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file)
        return;
    uint8_t *bytes = malloc(1 << 20);
    size_t size = fread(bytes, 1, 1 << 20, file);
    fclose(file);
    LLVMFuzzerTestOneInput(bytes, size);
    free(bytes);
}

static int first_is_program(struct dl_phdr_info *info, size_t size, void *base) {
    (void)size;
    *(uintptr_t *)base = info->dlpi_addr;
    return 1;
}

int main(int argc, char **argv) {
    if (LLVMFuzzerInitialize)
        LLVMFuzzerInitialize(&argc, &argv);
    for (int folder = 1; folder < argc; folder++) {
        DIR *inputs = opendir(argv[folder]);
        for (struct dirent *input; inputs && (input = readdir(inputs));) {
            char path[4096];
            if (input->d_name[0] != '.') {
                snprintf(path, sizeof path, "%s/%s", argv[folder], input->d_name);
                run(path);
            }
        }
        if (inputs)
            closedir(inputs);
    }
    uintptr_t base = 0;
    dl_iterate_phdr(first_is_program, &base);
    for (size_t part = 0; part < parts && part < located; part++)
        for (size_t at = 0; counters[part].from + at < counters[part].to; at++)
            printf("%lx %d\n", (unsigned long)(places[part][2 * at] - base), counters[part].from[at] != 0);
    return 0;
}
