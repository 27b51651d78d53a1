/* Memory allocations that a library makes for itself fail; the program's own do not. Preloaded before the library.
 *
 *     FAULTS_LIBRARY   what the name of the library's file contains
 *     FAULTS_COUNT     a file of eight zero bytes, where all processes count
 *     FAULTS_NTH       which allocation fails, from 1; "N+" all from that one on; "0" none
 *     FAULTS_LEAST     only allocations of at least so many bytes count
 *     FAULTS_TRACE     a file: for each that fails its size, and what may be the callers' addresses in the library
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

static uintptr_t base, text, end;
static unsigned long nth, least;
static int on, trace = -1;
static _Atomic unsigned long *count;

static int look(struct dl_phdr_info *info, size_t size, void *name)
{
	int i;

	(void)size;
	if (!strstr(info->dlpi_name, name))
		return 0;
	base = info->dlpi_addr;
	for (i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_LOAD && info->dlpi_phdr[i].p_flags & PF_X) {
			text = base + info->dlpi_phdr[i].p_vaddr;
			end = text + info->dlpi_phdr[i].p_memsz;
		}
	return 1;
}

__attribute__((constructor)) static void begin(void)
{
	const char *which = getenv("FAULTS_NTH"), *file = getenv("FAULTS_COUNT"), *size = getenv("FAULTS_LEAST");
	void *shared;
	int fd;

	if (!which || !file || (fd = open(file, O_RDWR | O_CLOEXEC)) < 0)
		return;
	shared = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (shared == MAP_FAILED)
		return;
	nth = strtoul(which, NULL, 10);
	on = !!strchr(which, '+');
	least = size ? strtoul(size, NULL, 10) : 0;
	/* Where no descriptor of the library's or the program's comes to lie. */
	if (getenv("FAULTS_TRACE") && (fd = open(getenv("FAULTS_TRACE"), O_WRONLY | O_APPEND | O_CLOEXEC)) >= 0) {
		trace = fcntl(fd, F_DUPFD_CLOEXEC, 900);
		close(fd);
	}
	dl_iterate_phdr(look, getenv("FAULTS_LIBRARY"));
	count = shared;
}

static void tell(size_t size, uintptr_t caller, uintptr_t *stack)
{
	char line[1024];
	int at = snprintf(line, sizeof(line), "%zu %#lx", size, (unsigned long)(caller - base)), i;

	for (i = 0; i < 160 && at < (int)sizeof(line) - 20; i++)
		if (stack[i] >= text && stack[i] < end)
			at += snprintf(line + at, sizeof(line) - at, " %#lx", (unsigned long)(stack[i] - base));
	line[at++] = '\n';
	if (write(trace, line, at) != at)
		trace = -1;
}

/* Never inlined: the caller's address is what decides. */
static int fails(size_t size, uintptr_t caller, uintptr_t *stack)
{
	unsigned long now;

	if (!count || caller < text || caller >= end || size < least)
		return 0;
	now = atomic_fetch_add(count, 1) + 1;
	if (!nth || (on ? now < nth : now != nth))
		return 0;
	if (trace >= 0)
		tell(size, caller, stack);
	errno = ENOMEM;
	return 1;
}

#define FAILS(size) fails(size, (uintptr_t)__builtin_return_address(0), (uintptr_t *)__builtin_frame_address(0))

void *malloc(size_t size)
{
	return FAILS(size) ? NULL : __libc_malloc(size);
}

void *calloc(size_t number, size_t size)
{
	return FAILS(number * size) ? NULL : __libc_calloc(number, size);
}

void *realloc(void *old, size_t size)
{
	return size && FAILS(size) ? NULL : __libc_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
	return FAILS(size) ? NULL : __libc_memalign(alignment, size);
}

int posix_memalign(void **at, size_t alignment, size_t size)
{
	void *made = FAILS(size) ? NULL : __libc_memalign(alignment, size);

	if (!made)
		return ENOMEM;
	*at = made;
	return 0;
}
