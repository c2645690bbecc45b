/* Sends the fields of a running solver to a sciflow trainer. C99, needs libzmq and nothing else.
 *
 *     sciflow_client *online = sciflow_connect(NULL, NULL, rank, ranks);
 *     while ((more = sciflow_next(online, parameters, 2)) == 1) {
 *         for (each level) {
 *             code = sciflow_send(online, time, "temperature", u, first, count);
 *             if (code != 0) break;
 *         }
 *         sciflow_finish(online, code == 0, NULL);
 *     }
 *     if (more < 0) fprintf(stderr, "%s\n", sciflow_error(online));
 *     sciflow_close(online);
 *
 * Every rank of a parallel solver makes the same calls with its own rank and its own part of the
 * fields. The library does not know MPI: ranks that must stop together agree on the code of
 * sciflow_send themselves (MPI_Allreduce with MPI_MAX). Nothing here aborts the process, prints, starts
 * a thread of its own or keeps global state; a client belongs to one thread at a time.
 */
#ifndef SCIFLOW_ONLINE_H
#define SCIFLOW_ONLINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What sciflow_send, sciflow_index, sciflow_alive and sciflow_finish return. The larger one wins when
 * ranks agree by their maximum. */
#define SCIFLOW_OK 0
#define SCIFLOW_ABORTED 1 /* the trainer gave this member up: leave the time loop, ask for the next */
#define SCIFLOW_ERROR 2   /* sciflow_error says what happened */

typedef struct sciflow_client sciflow_client;

/* Connects this rank and waits for the trainer's welcome.
 *
 * address_file  JSON file that the trainer wrote; NULL: the variable SCIFLOW_ONLINE names it
 * group         same text on all ranks of one solver and on no other; NULL: SCIFLOW_GROUP, otherwise
 *               what mpirun or Slurm say, or this process if it is alone
 * rank, ranks   of the solver, from 0
 *
 * Returns a client in every case but lack of memory. If connecting failed, each later call
 * returns an error at once and sciflow_error tells why, so the result needs no check of its own. */
sciflow_client *sciflow_connect(const char *address_file, const char *group, int rank, int ranks);

/* Asks for the next member: 1 and its n parameters, 0 if there is no more work, -1 on an error.
 * All ranks of a solver get the same members in the same order. n must be the number of
 * parameters of the problem. */
int sciflow_next(sciflow_client *client, double *parameters, int n);

/* Sends values start .. start + count - 1 of a flattened field (C order, from 0) at a time.
 *
 * A new time begins the next level of this field; times grow. A rank sends a level in as many parts
 * as it likes; one that has no part of it calls with count = 0, which counts the level. A field without
 * time axis is sent once for each member, at any time. A field that the run does not take is left out. Waits
 * while the trainer has as many messages as it wants. Values are converted to float32 if the field is;
 * one that is not finite, or too large, is an error and nothing of this call is sent. The member
 * can then be finished as failed. */
int sciflow_send(sciflow_client *client, double time, const char *field, const double *values, size_t start,
                 size_t count);

/* For scattered degrees of freedom: later sends of this field with the same start and count go to these
 * positions of the flattened field, shape (count,), from 0. start is then a number that differs between
 * the parts of a field, for example that of the part's first value counted over the ranks. May be
 * called before the first member; holds for all members until it is called again. */
int sciflow_index(sciflow_client *client, const char *field, const int64_t *positions, size_t start,
                  size_t count);

/* Ends the member: ok = 1 as computed, 0 as failed for a reason. NULL: the last error of this member.
 * With ok it waits until the trainer has taken everything. SCIFLOW_ABORTED: the attempt did not count. */
int sciflow_finish(sciflow_client *client, int ok, const char *reason);

/* Tells the trainer that this rank lives, if it was silent for long. All other calls do so too; only a
 * solver that computes for minutes between two of them needs this one. */
int sciflow_alive(sciflow_client *client);

/* Says goodbye and frees everything. A member that was not finished goes to another solver. */
void sciflow_close(sciflow_client *client);

/* The last error or the reason of the last abort, as one sentence; "" if there was none. The text belongs
 * to the client. */
const char *sciflow_error(const sciflow_client *client);

/* Of the present or the last member; -1 and 0 before the first. */
int64_t sciflow_member(const sciflow_client *client);
uint64_t sciflow_seed(const sciflow_client *client);

#ifdef __cplusplus
}
#endif

#endif
