/* Heat equation on the unit square, and the lines that make it a solver of sciflow (marked "sciflow").
 *
 *     u_t = kappa (u_xx + u_yy),   u = 0 on the boundary,
 *     u(0) = amplitude sin(pi x) sin(pi y)
 *
 * Explicit Euler on n x n inner points; each MPI rank owns some rows. The parameters are kappa and
 * amplitude; the field "temperature" has the axes (y, x).
 *
 *     heat [n [levels [interval]]]       32 points, 11 levels 0.005 apart
 *
 * With MPI: mpicc -DWITH_MPI heat.c sciflow_online.c -lzmq -lm
 * without:  cc heat.c sciflow_online.c -lzmq -lm
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef WITH_MPI
#include <mpi.h>
#endif

#include "sciflow_online.h" /* sciflow 1 */

static const double PI = 3.14159265358979323846;

struct grid {
    int n, first, rows; /* inner points in a direction; first row and number of rows of this rank */
    int rank, ranks;
};

/* The neighbours' rows next to this rank's. Rows are numbered from 1, width n + 2 with the boundary. */
static void exchange(const struct grid *g, double *u)
{
#ifdef WITH_MPI
    int w = g->n + 2;
    int above = g->rank > 0 ? g->rank - 1 : MPI_PROC_NULL;
    int below = g->rank < g->ranks - 1 ? g->rank + 1 : MPI_PROC_NULL;
    MPI_Sendrecv(u + w, w, MPI_DOUBLE, above, 0, u + (g->rows + 1) * w, w, MPI_DOUBLE, below, 0,
                 MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Sendrecv(u + g->rows * w, w, MPI_DOUBLE, below, 1, u, w, MPI_DOUBLE, above, 1, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
#else
    (void)g;
    (void)u;
#endif
}

static void begin(const struct grid *g, double amplitude, double *u)
{
    int w = g->n + 2;
    double h = 1.0 / (g->n + 1);
    memset(u, 0, sizeof *u * (size_t)(w * (g->rows + 2)));
    for (int j = 1; j <= g->rows; j++)
        for (int i = 1; i <= g->n; i++)
            u[j * w + i] = amplitude * sin(PI * i * h) * sin(PI * (g->first + j) * h);
}

static void step(const struct grid *g, double r, double *u, double *next)
{
    int w = g->n + 2;
    exchange(g, u);
    for (int j = 1; j <= g->rows; j++)
        for (int i = 1; i <= g->n; i++) {
            int k = j * w + i;
            next[k] = u[k] + r * (u[k - 1] + u[k + 1] + u[k - w] + u[k + w] - 4 * u[k]);
        }
    memcpy(u + w, next + w, sizeof *u * (size_t)(w * g->rows));
}

/* The inner points of this rank's rows, one behind the other. */
static const double *inner(const struct grid *g, const double *u, double *out)
{
    for (int j = 0; j < g->rows; j++)
        memcpy(out + j * g->n, u + (j + 1) * (g->n + 2) + 1, sizeof *u * (size_t)g->n);
    return out;
}

/* The same on all ranks: the largest. A rank must not leave the time loop alone. */
static int agreed(int code)
{
#ifdef WITH_MPI
    MPI_Allreduce(MPI_IN_PLACE, &code, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
#endif
    return code;
}

int main(int argc, char **argv)
{
    struct grid g = {argc > 1 ? atoi(argv[1]) : 32, 0, 0, 0, 1};
    int levels = argc > 2 ? atoi(argv[2]) : 11, more, code;
    double interval = argc > 3 ? atof(argv[3]) : 0.005, parameters[2];
#ifdef WITH_MPI
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &g.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &g.ranks);
#endif
    g.first = g.n * g.rank / g.ranks;
    g.rows = g.n * (g.rank + 1) / g.ranks - g.first;
    size_t room = (size_t)(g.n + 2) * (size_t)(g.rows + 2);
    double *u = calloc(room, sizeof *u), *next = calloc(room, sizeof *u), *out = calloc(room, sizeof *u);

    sciflow_client *online = sciflow_connect(NULL, NULL, g.rank, g.ranks); /* sciflow 2 */
    while ((more = sciflow_next(online, parameters, 2)) == 1) {            /* sciflow 3 */
        double kappa = parameters[0], h = 1.0 / (g.n + 1);
        int steps = (int)ceil(interval * kappa / (0.2 * h * h));
        begin(&g, parameters[1], u);
        code = 0;
        for (int level = 0; level < levels; level++) {
            for (int s = 0; level > 0 && s < steps; s++)
                step(&g, kappa * interval / steps / (h * h), u, next);
            code = sciflow_send(online, level * interval, "temperature", /* sciflow 4 */
                                inner(&g, u, out), (size_t)(g.first * g.n), (size_t)(g.rows * g.n));
            if ((code = agreed(code)) != 0) /* sciflow 5 */
                break;
        }
        sciflow_finish(online, code == 0, NULL); /* sciflow 6 */
    }
    if (more < 0)
        fprintf(stderr, "heat: %s\n", sciflow_error(online)); /* sciflow 7 */
    sciflow_close(online);                                    /* sciflow 8 */

    free(u);
    free(next);
    free(out);
#ifdef WITH_MPI
    if (more < 0)
        MPI_Abort(MPI_COMM_WORLD, 1);
    MPI_Finalize();
#endif
    return more < 0;
}
