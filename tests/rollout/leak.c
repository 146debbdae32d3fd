// Loaded into a program, it takes 16 MiB of memory a second, up to 800 MiB, and never gives it back.
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 1 << 20, PIECES_MAX = 800 };

static void *leak(void *unused)
{
    for (int i = 0; i < PIECES_MAX; i++) {
        void *piece = malloc(PIECE);
        if (piece)
            memset(piece, i + 1, PIECE);
        usleep(62500);
    }
    return unused;
}

__attribute__((constructor)) static void begin(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, leak, NULL);
}
