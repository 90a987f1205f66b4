/*
 * The launcher of the bundle: a static program that hands over to the bundle's own loader.
 *
 * Owns: finding the bundle it is part of, and what the frozen Python may see of the environment.
 * Must not know: options, elections, Python. It needs nothing of the image but /proc.
 *
 * - The loader is started by its path, since what a program names as its interpreter is absolute,
 *   and the bundle may lie anywhere. It is told where the libraries are, and not to ask the image.
 * - The process stays the same: exec alone, no fork, no descriptor, no signal touched. It may be
 *   PID 1.
 * - Every string of the environment goes on behind a mark, "PATH=/bin" as "@PATH=/bin", so that
 *   neither the loader nor Python nor PyInstaller takes what is meant for the child (LD_PRELOAD,
 *   PYTHONHOME, GLIBC_TUNABLES, _PYI_...) for its own. leaderexec/frozen.py takes the mark off again.
 * - The two _PYI_ variables tell PyInstaller's boot loader that the libraries can be found already.
 *   It would otherwise set LD_LIBRARY_PATH and execute itself again.
 */

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MARK '@'          /* leaderexec/frozen.py knows it too */
#define RUNTIME "/runtime" /* so do build.py and leaderexec/commands/install.py */
#define PROGRAM RUNTIME "/frozen"
#define ARCHIVE "_PYI_ARCHIVE_FILE="
#define LEVEL "_PYI_PARENT_PROCESS_LEVEL=0"

#define USAGE 2
#define INTERNAL 125

#if defined(__x86_64__)
#define LOADER RUNTIME "/ld-linux-x86-64.so.2"
#elif defined(__aarch64__)
#define LOADER RUNTIME "/ld-linux-aarch64.so.1"
#else
#error "accepted: x86_64 and aarch64; for others name the loader here"
#endif

static void die(int code, const char *what, const char *why)
{
	fprintf(stderr, "leaderexec: cannot start from the bundle %s: %s\n", what, why);
	_exit(code);
}

static void *space(size_t size)
{
	void *start = malloc(size);
	if (!start)
		die(INTERNAL, "", "out of memory");
	return start;
}

static char *join(const char *before, const char *after)
{
	size_t length = strlen(before);
	char *joined = space(length + strlen(after) + 1);

	memcpy(joined, before, length);
	strcpy(joined + length, after);
	return joined;
}

int main(int argc, char **argv, char **environment)
{
	char home[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", home, sizeof home);

	if (length < 0)
		die(USAGE, "", "there is no /proc/self/exe; accepted: a /proc that is mounted");
	if (length >= (ssize_t)sizeof home)
		die(USAGE, "", "its path is too long");
	home[length] = '\0';
	*strrchr(home, '/') = '\0';
	if (strpbrk(home, ":;$"))
		die(USAGE, home, "accepted: a path without ':', ';' and '$'");

	char *loader = join(home, LOADER);
	char *program = join(home, PROGRAM);

	size_t words = 0;
	char **handed = space((argc + 6) * sizeof *handed);
	handed[words++] = loader;
	handed[words++] = "--inhibit-cache";
	handed[words++] = "--library-path";
	handed[words++] = join(home, RUNTIME);
	handed[words++] = program;
	for (int i = 1; i < argc; i++)
		handed[words++] = argv[i];
	handed[words] = NULL;

	size_t count = 0;
	while (environment[count])
		count++;
	char **marked = space((count + 3) * sizeof *marked);
	for (size_t i = 0; i < count; i++)
		marked[i] = join((char[]){MARK, '\0'}, environment[i]);
	marked[count] = join(ARCHIVE, program);
	marked[count + 1] = LEVEL;
	marked[count + 2] = NULL;

	execve(loader, handed, marked);
	die(INTERNAL, home, strerror(errno));
}
