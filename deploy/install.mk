# SPDX-License-Identifier: Apache-2.0
# Installing, and the Debian package: folders, and the targets install, uninstall and deb.
#
# The folders are named as in the GNU conventions, and all can be given to make. Three of them have
# defaults of their own, which those of a service are: /etc, /var and /run, whatever the prefix.
# What is shipped names the folders of the Debian package (/usr/bin, /usr/sbin, /usr/share, /etc,
# /var/lib, /run) and is installed with those that are given.

prefix = /usr/local
exec_prefix = $(prefix)
bindir = $(exec_prefix)/bin
sbindir = $(exec_prefix)/sbin
datarootdir = $(prefix)/share
datadir = $(datarootdir)
mandir = $(datarootdir)/man
docdir = $(datarootdir)/doc/assetd
localstatedir = /var
runstatedir = /run
nginxconfdir = /etc/nginx

# systemd looks into its own folders below /usr, /usr/local and /etc. `make install unitdir=` leaves
# out all that is for systemd.
systemddir = $(if $(filter /usr /usr/local,$(prefix)),$(prefix)/lib,$(sysconfdir))
unitdir = $(systemddir)/systemd/system
sysusersdir = $(systemddir)/sysusers.d
tmpfilesdir = $(systemddir)/tmpfiles.d

INSTALL_FOLDERS := bindir sbindir datadir mandir docdir sysconfdir localstatedir runstatedir \
                   nginxconfdir unitdir sysusersdir tmpfilesdir
install_sh = BUILD='$(O)' DESTDIR='$(DESTDIR)' \
             $(foreach folder,$(INSTALL_FOLDERS),$(folder)='$($(folder))') deploy/install.sh

.PHONY: install uninstall deb

ifeq ($(VARIANT),release)
install: $(PROGRAMS) ## install it all; DESTDIR=, prefix= and other folders: deploy/install.mk
	@$(install_sh) install
else
install:
	@echo 'make install: not of VARIANT=$(VARIANT), which is for tests' >&2; exit 1
endif

uninstall: ## remove what was installed; keeps changed configuration, credentials and storage
	@$(install_sh) uninstall

deb: ## build the Debian package, build/deb/assetd_VERSION_ARCH.deb
	@$(MAKE) deps DEPS_FOR=deb
	@VERSION='$(VERSION)' deploy/deb.sh $(O)/deb
