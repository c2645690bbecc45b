! Heat equation on the unit square, and the lines that make it a solver of sciflow (marked "sciflow").
!
!     u_t = kappa (u_xx + u_yy),   u = 0 on the boundary,
!     u(0) = amplitude sin(pi x) sin(2 pi y)
!
! Implicit Euler, Jacobi sweeps in each step; nx x ny inner points. The parameters are kappa and amplitude;
! u(i, j) is sent as it lies in memory, so the field "temperature" has the axes (y, x).
!
!     heat [nx [ny [levels]]]            24 x 16 points, 11 levels 0.005 apart
!
! cc -c sciflow_online.c && gfortran sciflow_online.f90 heat.f90 sciflow_online.o -lzmq
program heat
   use, intrinsic :: iso_c_binding, only: real64 => c_double
   use sciflow_online, only: sciflow_client                                   ! sciflow 1
   implicit none
   real(real64), parameter :: pi = 3.14159265358979323846_real64, interval = 0.005_real64
   type(sciflow_client) :: online                                             ! sciflow 2
   real(real64), allocatable :: u(:, :)
   real(real64) :: parameters(2)
   integer :: nx, ny, levels, level, i, j, code, more

   nx = argument(1, 24)
   ny = argument(2, 16)
   levels = argument(3, 11)
   allocate (u(0:nx + 1, 0:ny + 1))

   call online%connect(rank=0, ranks=1)                                       ! sciflow 3
   do
      more = online%next(parameters)                                          ! sciflow 4
      if (more /= 1) exit
      u = 0
      do j = 1, ny
         do i = 1, nx
            u(i, j) = parameters(2)*sin(pi*i/(nx + 1))*sin(2*pi*j/(ny + 1))
         end do
      end do
      code = 0
      do level = 0, levels - 1
         if (level > 0) call step(u, parameters(1)*interval)
         code = online%send(level*interval, 'temperature', u(1:nx, 1:ny))     ! sciflow 5
         if (code /= 0) exit
      end do
      code = online%finish(code == 0)                                         ! sciflow 6
   end do
   if (more < 0) write (0, '(2a)') 'heat: ', online%error()                   ! sciflow 7
   call online%close()                                                        ! sciflow 8
   if (more < 0) stop 1

contains

   !> (1 - kappa dt laplace) u = u of the step before, by Jacobi sweeps to the last digits.
   subroutine step(u, kappa_dt)
      real(real64), intent(inout) :: u(0:, 0:)
      real(real64), intent(in) :: kappa_dt
      real(real64) :: before(nx, ny), swept(nx, ny), ax, ay
      integer :: sweep
      ax = kappa_dt*(nx + 1)**2
      ay = kappa_dt*(ny + 1)**2
      before = u(1:nx, 1:ny)
      do sweep = 1, 10000
         swept = (before + ax*(u(0:nx - 1, 1:ny) + u(2:nx + 1, 1:ny)) &
                  + ay*(u(1:nx, 0:ny - 1) + u(1:nx, 2:ny + 1)))/(1 + 2*ax + 2*ay)
         if (maxval(abs(swept - u(1:nx, 1:ny))) <= 1e-15_real64*maxval(abs(before))) exit
         u(1:nx, 1:ny) = swept
      end do
   end subroutine step

   function argument(i, otherwise) result(value)
      integer, intent(in) :: i, otherwise
      integer :: value
      character(len=32) :: text
      value = otherwise
      if (command_argument_count() < i) return
      call get_command_argument(i, text)
      read (text, *) value
   end function argument

end program heat
